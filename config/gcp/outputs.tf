output "tunnel" {
  description = "Command that opens every page of the project machine on this machine, at the ports of the README."
  value       = "gcloud compute ssh project --project=${var.project} --zone=${var.zone} --tunnel-through-iap -- -N ${join(" ", [for port in [9696, 5000, 8888, 3000, 9090, 8085] : "-L ${port}:localhost:${port}"])}"
}

output "prefect_tunnel" {
  description = "Command that opens Prefect's page on this machine, at port 4200."
  value       = "gcloud compute ssh prefect --project=${var.project} --zone=${var.zone} --tunnel-through-iap -- -N -L 4200:localhost:4200"
}

output "address" {
  description = "External address of the project machine; null without allowed_addresses."
  value       = one(google_compute_address.project[*].address)
}

output "buckets" {
  description = "Names of the buckets, by use."
  value       = local.buckets
}

output "service_accounts" {
  description = "Service accounts of the machines."
  value       = [google_service_account.project.email, google_service_account.prefect.email]
}
