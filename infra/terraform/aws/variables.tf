variable "region" {
  type        = string
  description = "Region of everything; that of the bucket of the sources."
}

variable "name" {
  type        = string
  description = "Beginning of the names of all that is made."
  default     = "ecif"
}

variable "sources_bucket" {
  type        = string
  description = "Bucket of the shards that are cleaned. It exists already; only its notifications are set."
}

variable "sources_prefix" {
  type        = string
  description = "Prefix of the shards in it, with a slash at its end; empty: the whole bucket."
  default     = ""
}

variable "output_bucket" {
  type        = string
  description = "Bucket of the output, which is made."
}

variable "output_prefix" {
  type        = string
  description = "Prefix of the output in it, with a slash at its end; empty: the whole bucket."
  default     = ""
}

variable "pending_upload_days" {
  type        = number
  description = "Days after which uploads are given up that a killed run has left. More than the longest upload takes."
  default     = 3
  validation {
    condition     = var.pending_upload_days >= 1
    error_message = "An upload that is under way must not be given up: one day at least."
  }
}

variable "notifications" {
  type        = bool
  description = "Whether the bucket of the sources tells the queue of new tars. Terraform then owns ALL its notifications: leave it off if it has others, and add this queue to them."
  default     = true
}
