locals {
  image = "debian-cloud/debian-13" # its own packages bring Docker Engine 26 and Compose 2.26
}

resource "google_compute_instance" "prefect" {
  name                = "prefect"
  machine_type        = var.prefect_machine_type
  deletion_protection = var.deletion_protection
  # A new start-up script takes effect at the next boot; it must not replace the disk.
  metadata = {
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    startup-script = templatefile("${path.module}/startup.sh.tftpl", {
      repository_url = var.repository_url
      revision       = var.revision
      secret_version = google_secret_manager_secret_version.prefect.name
      settings = {
        COMPOSE_PROFILES = "prefect"
        BIND_ADDRESS     = "0.0.0.0" # the firewall lets the project machine in, and nobody else
      }
      start = "docker compose up --build --detach --wait prefect"
    })
  }

  boot_disk {
    initialize_params {
      image = local.image
      size  = var.disk_gb
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
    scopes = ["cloud-platform"] # what it may do is up to its roles
  }
}

resource "google_compute_instance" "project" {
  name                = "project"
  machine_type        = var.project_machine_type
  deletion_protection = var.deletion_protection
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
        STORAGE_EMULATOR_HOST = ""
        PREFECT_API_URL       = "http://${google_compute_instance.prefect.network_interface[0].network_ip}:4200/api"
      }
      start = "make up"
    })
  }

  boot_disk {
    initialize_params {
      image = local.image
      size  = var.disk_gb
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.income.id

    dynamic "access_config" {
      for_each = length(var.allowed_addresses) > 0 ? ["an external address"] : []
      content {}
    }
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  service_account {
    email  = google_service_account.project.email
    scopes = ["cloud-platform"]
  }
}
