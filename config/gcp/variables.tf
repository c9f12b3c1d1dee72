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
  description = "Address of this repository for the machines: https, without a password."
  type        = string

  validation {
    condition     = can(regex("^https://[[:alnum:]._~:/@%+-]+$", var.repository_url))
    error_message = "repository_url: expected an https:// address without quotes and blanks."
  }
}

variable "revision" {
  description = "Tag, branch or full commit id for the machines."
  type        = string
  default     = "main"

  validation {
    condition     = can(regex("^[[:alnum:]][[:alnum:]._/-]*$", var.revision))
    error_message = "revision: expected a tag, a branch or a full commit id."
  }
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
  description = "Boot disk of each machine in GB; images take 5, volumes the rest. A later change replaces the machine with an empty one."
  type        = number
  default     = 30
}

variable "noncurrent_days" {
  description = "Days in which an overwritten or deleted object can be restored."
  type        = number
  default     = 30
}

variable "deletion_protection" {
  description = "Protect the machines, whose disks hold the volumes, from terraform destroy."
  type        = bool
  default     = true
}

variable "allowed_addresses" {
  description = "IPv4 ranges that can reach open_ports without a tunnel. Empty: none, and no machine has an external address."
  type        = list(string)
  default     = []

  validation {
    # The mask decides: 0.0.0.0/00 is the whole internet too, and so are 0.0.0.0/1 and 128.0.0.0/1.
    condition     = alltrue([for range in var.allowed_addresses : startswith(try(cidrnetmask(range), ""), "255.")])
    error_message = "allowed_addresses: expected IPv4 ranges such as 203.0.113.0/24, none wider than /8."
  }
}

variable "open_ports" {
  description = "Ports of the project machine for allowed_addresses: 9696 predictions, 5000 MLflow, 8888 Jupyter, 3000 drift, 8085 Grafana."
  type        = list(number)
  default     = [9696]

  validation {
    condition     = alltrue([for port in var.open_ports : contains([9696, 5000, 8888, 3000, 8085], port)])
    error_message = "open_ports: expected some of 9696, 5000, 8888, 3000 and 8085. MongoDB and Prometheus need a tunnel."
  }
}
