variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the network and the buckets."
  type        = string
  default     = "europe-west1"
}

variable "zone" {
  description = "Zone of the machines, in the region."
  type        = string
  default     = "europe-west1-b"
}

variable "repository_url" {
  description = "Where the machines clone this repository from, over https."
  type        = string

  validation {
    condition     = startswith(var.repository_url, "https://")
    error_message = "repository_url must start with https://."
  }
}

variable "revision" {
  description = "Tag, branch or commit that the machines run."
  type        = string
  default     = "main"
}

variable "project_machine_type" {
  description = "Machine with MLflow, Jupyter and the services: 2 cores and 8 GB are enough."
  type        = string
  default     = "e2-standard-2"
}

variable "prefect_machine_type" {
  description = "Machine with the Prefect server."
  type        = string
  default     = "e2-small"
}

variable "disk_gb" {
  description = "Boot disk of each machine, in GB: images take 5, the volumes the rest."
  type        = number
  default     = 30
}

variable "noncurrent_days" {
  description = "Days that an overwritten or deleted object can still be brought back."
  type        = number
  default     = 30
}

variable "deletion_protection" {
  description = "Whether terraform destroy refuses to remove the machines, whose disks hold the volumes."
  type        = bool
  default     = true
}

variable "allowed_addresses" {
  description = "CIDR ranges that may reach open_ports directly. Empty: nobody, and no machine has an external address."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.allowed_addresses : can(cidrhost(range, 0)) && !endswith(range, "/0")])
    error_message = "allowed_addresses takes CIDR ranges, and never the whole internet (/0)."
  }
}

variable "open_ports" {
  description = "Ports of the project machine that allowed_addresses reach: 9696 predictions, 5000 MLflow, 8888 Jupyter, 3000 drift, 8085 Grafana."
  type        = list(number)
  default     = [9696]

  validation {
    condition     = alltrue([for port in var.open_ports : contains([9696, 5000, 8888, 3000, 8085], port)])
    error_message = "open_ports takes 9696, 5000, 8888, 3000 and 8085. MongoDB and Prometheus are reached through a tunnel only."
  }
}
