locals {
  # Bucket names are unique world-wide.
  buckets = {
    artifacts = "${var.project}-income-artifacts" # of MLflow
    prefect   = "${var.project}-income-prefect"   # for flow code and results
  }
}

resource "google_storage_bucket" "income" {
  for_each                    = local.buckets
  name                        = each.value
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.noncurrent_days
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_service_account" "project" {
  account_id   = "income-project"
  display_name = "Income: MLflow, worker and services"
}

resource "google_service_account" "prefect" {
  account_id   = "income-prefect"
  display_name = "Income: Prefect server"
}

# MLflow's server and the worker use the buckets, and both run on the project machine. The worker stores
# flow code in the second bucket and reads it from there. The Prefect server needs no bucket.
resource "google_storage_bucket_iam_member" "project" {
  for_each = google_storage_bucket.income
  bucket   = each.value.name
  role     = "roles/storage.objectUser"
  member   = google_service_account.project.member
}

resource "google_project_iam_member" "logs" {
  for_each = { project = google_service_account.project.member, prefect = google_service_account.prefect.member }
  project  = var.project
  role     = "roles/logging.logWriter"
  member   = each.value
}

# Both machines need Prefect's credentials. Terraform's state holds them too: keep the state private.
resource "random_password" "prefect" {
  length  = 32
  special = false
}

resource "google_secret_manager_secret" "prefect" {
  secret_id = "income-prefect-auth"
  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "prefect" {
  secret      = google_secret_manager_secret.prefect.id
  secret_data = "admin:${random_password.prefect.result}"
}

resource "google_secret_manager_secret_iam_member" "prefect" {
  for_each  = { project = google_service_account.project.member, prefect = google_service_account.prefect.member }
  secret_id = google_secret_manager_secret.prefect.id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value
}
