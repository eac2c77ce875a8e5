output "worker_role_arn" {
  description = "Role of workers and of the runs' pods: reads the sources, reads and writes the output."
  value       = aws_iam_role.role["worker"].arn
}

output "poller_role_arn" {
  description = "Role of `ecif poll`: hears of arrivals."
  value       = aws_iam_role.role["poller"].arn
}

output "doctor_role_arn" {
  description = "Role for `ecif doctor` on the output."
  value       = aws_iam_role.role["doctor"].arn
}

output "queue_url" {
  description = "The argument of `ecif poll`."
  value       = aws_sqs_queue.arrivals.url
}

output "allow" {
  description = "ECIF_ALLOW of the workers."
  value       = jsonencode(["s3://${var.sources_bucket}/${var.sources_prefix}", "s3://${var.output_bucket}/${var.output_prefix}"])
}
