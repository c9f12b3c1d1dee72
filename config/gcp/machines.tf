locals {
  image           = "debian-cloud/debian-13" # with packages of Docker Engine 26 and Compose 2.26
  prefect_api_url = "http://${google_compute_instance.prefect.network_interface[0].network_ip}:4200/api"
}

resource "google_compute_instance" "prefect" {
  name                = "prefect"
  machine_type        = var.prefect_machine_type
  deletion_protection = var.deletion_protection
  # A change of the machine type stops and starts the machine.
  allow_stopping_for_update = true
  # In metadata, a new start-up script takes effect at its next run and does not replace the disk.
  metadata = {
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    startup-script = templatefile("${path.module}/startup.sh.tftpl", {
      repository_url = var.repository_url
      revision       = var.revision
      secret_version = google_secret_manager_secret_version.prefect.name
      settings = {
        COMPOSE_PROFILES = "prefect"
        BIND_ADDRESS     = "0.0.0.0" # the firewall allows the project machine only
      }
      start = "docker compose up --build --detach --wait prefect"
    })
  }

  boot_disk {
    initialize_params {
      image = local.image
      size  = var.disk_gb
      type  = "pd-balanced" # a small pd-standard is too slow for journals and image builds
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.income.id
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  service_account {
    email  = google_service_account.prefect.email
    scopes = ["cloud-platform"] # the roles of the account limit it
  }

  # The start-up script needs these as soon as the machine boots.
  depends_on = [
    google_compute_router_nat.income,
    google_secret_manager_secret_iam_member.prefect,
  ]
}

resource "google_compute_instance" "project" {
  name                = "project"
  machine_type        = var.project_machine_type
  deletion_protection = var.deletion_protection

  allow_stopping_for_update = true
  metadata = {
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    startup-script = templatefile("${path.module}/startup.sh.tftpl", {
      repository_url = var.repository_url
      revision       = var.revision
      secret_version = google_secret_manager_secret_version.prefect.name
      settings = {
        COMPOSE_PROFILES      = "monitoring,jupyter"
        BIND_ADDRESS          = length(var.allowed_addresses) > 0 ? "0.0.0.0" : "127.0.0.1"
        ARTIFACT_BUCKET       = google_storage_bucket.income["artifacts"].name
        FLOW_STORAGE          = "gs://${google_storage_bucket.income["prefect"].name}"
        STORAGE_EMULATOR_HOST = ""
        PREFECT_API_URL       = local.prefect_api_url
        MLFLOW_ALLOWED_HOST   = join(",", [for one in google_compute_address.project : "${one.address}:5000"])
      }
      # The small machine builds its image for longer than the worker waits for its server.
      start = join("\n", [
        "docker compose build --quiet",
        "curl --fail --silent --show-error --output /dev/null --max-time 10 --retry 180 --retry-delay 10 --retry-all-errors ${local.prefect_api_url}/health",
        "make up",
      ])
    })
  }

  boot_disk {
    initialize_params {
      image = local.image
      size  = var.disk_gb
      type  = "pd-balanced" # a small pd-standard is too slow for journals and image builds
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.income.id

    dynamic "access_config" {
      for_each = google_compute_address.project[*].address
      content {
        nat_ip = access_config.value
      }
    }
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  service_account {
    email  = google_service_account.project.email
    scopes = ["cloud-platform"]
  }

  depends_on = [
    google_compute_router_nat.income,
    google_secret_manager_secret_iam_member.prefect,
    google_storage_bucket_iam_member.project,
  ]
}
