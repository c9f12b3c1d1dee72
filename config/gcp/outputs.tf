output "tunnel" {
  description = "Opens every page of the project machine on this one, at the ports of the README."
  value       = "gcloud compute ssh project --project=${var.project} --zone=${var.zone} --tunnel-through-iap -- -N ${join(" ", [for port in [9696, 5000, 8888, 3000, 9090, 8085] : "-L ${port}:localhost:${port}"])}"
}

output "prefect_tunnel" {
  description = "Opens Prefect's page on this machine, at port 4200."
  value       = "gcloud compute ssh prefect --project=${var.project} --zone=${var.zone} --tunnel-through-iap -- -N -L 4200:localhost:4200"
}

output "address" {
  description = "Where allowed_addresses reach open_ports; null without any."
  value       = one(google_compute_address.project[*].address)
}

output "buckets" {
  description = "The buckets, by what they are for."
  value       = local.buckets
}

output "service_accounts" {
  description = "Whom the machines act as."
  value       = [google_service_account.project.email, google_service_account.prefect.email]
}
