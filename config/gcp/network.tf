resource "google_compute_network" "income" {
  name                    = "income"
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "income" {
  name                     = "income"
  network                  = google_compute_network.income.id
  region                   = var.region
  ip_cidr_range            = "10.20.0.0/24"
  private_ip_google_access = true
}

# Egress for packages, images and the training data, because the machines have no external addresses. Google
# charges for it by the hour and by traffic, even if nobody uses the machines.
resource "google_compute_router" "income" {
  name    = "income"
  network = google_compute_network.income.id
  region  = var.region
}

resource "google_compute_router_nat" "income" {
  name                               = "income"
  router                             = google_compute_router.income.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

# SSH and its tunnels, from Identity-Aware Proxy's range only.
resource "google_compute_firewall" "iap_ssh" {
  name                    = "income-iap-ssh"
  network                 = google_compute_network.income.id
  direction               = "INGRESS"
  source_ranges           = ["35.235.240.0/20"]
  target_service_accounts = [google_service_account.project.email, google_service_account.prefect.email]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

resource "google_compute_firewall" "project_to_prefect" {
  name                    = "income-project-to-prefect"
  network                 = google_compute_network.income.id
  direction               = "INGRESS"
  source_service_accounts = [google_service_account.project.email]
  target_service_accounts = [google_service_account.prefect.email]

  allow {
    protocol = "tcp"
    ports    = ["4200"]
  }
}

# The project machine's external address, with allowed_addresses only. It survives restarts.
resource "google_compute_address" "project" {
  count  = length(var.allowed_addresses) > 0 ? 1 : 0
  name   = "income-project"
  region = var.region
}

resource "google_compute_firewall" "allowed" {
  count                   = length(var.allowed_addresses) > 0 ? 1 : 0
  name                    = "income-allowed"
  network                 = google_compute_network.income.id
  direction               = "INGRESS"
  source_ranges           = var.allowed_addresses
  target_service_accounts = [google_service_account.project.email]

  allow {
    protocol = "tcp"
    ports    = [for port in var.open_ports : tostring(port)]
  }
}
