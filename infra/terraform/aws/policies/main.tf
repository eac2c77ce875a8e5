# The policies of infra/iam with their variables filled in. It needs no provider, so it can be applied anywhere, and looked
# at before anything is made:
#
#   terraform init && terraform apply -var-file=... && terraform output -json

variable "sources_bucket" {
  type        = string
  description = "Bucket of the shards that are cleaned; it is only read."
}

variable "sources_prefix" {
  type        = string
  description = "Prefix of the shards in it, with a slash at its end; empty: the whole bucket."
  default     = ""
  validation {
    condition     = var.sources_prefix == "" || endswith(var.sources_prefix, "/")
    error_message = "A prefix ends with a slash: without one, raw would also mean raw-private/."
  }
}

variable "output_bucket" {
  type        = string
  description = "Bucket of the output."
}

variable "output_prefix" {
  type        = string
  description = "Prefix of the output in it, with a slash at its end; empty: the whole bucket."
  default     = ""
  validation {
    condition     = var.output_prefix == "" || endswith(var.output_prefix, "/")
    error_message = "A prefix ends with a slash: without one, clean would also mean clean-private/."
  }
}

variable "queue_arn" {
  type        = string
  description = "The queue that takes the bucket's notifications."
}

locals {
  values = {
    sources_bucket = var.sources_bucket
    sources_prefix = var.sources_prefix
    output_bucket  = var.output_bucket
    output_prefix  = var.output_prefix
    queue_arn      = var.queue_arn
  }
  folder = "${path.module}/../../../iam"
}

output "sources" {
  description = "Reading the sources."
  value       = templatefile("${local.folder}/sources.json", local.values)
}

output "output" {
  description = "Reading and writing the output."
  value       = templatefile("${local.folder}/output.json", local.values)
}

output "doctor" {
  description = "What `ecif doctor` asks for in addition."
  value       = templatefile("${local.folder}/doctor.json", local.values)
}

output "queue" {
  description = "Hearing of arrivals."
  value       = templatefile("${local.folder}/queue.json", local.values)
}
