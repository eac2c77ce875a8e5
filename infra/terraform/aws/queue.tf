data "aws_caller_identity" "current" {}

data "aws_s3_bucket" "sources" {
  bucket = var.sources_bucket
}

# Where messages go that were received five times and not deleted: those that name a place that is not allowed, and those
# that nobody understands.
resource "aws_sqs_queue" "refused" {
  name                      = "${var.name}-arrivals-refused"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue" "arrivals" {
  name                       = "${var.name}-arrivals"
  message_retention_seconds  = 345600
  receive_wait_time_seconds  = 20
  visibility_timeout_seconds = 900
  sqs_managed_sse_enabled    = true
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.refused.arn
    maxReceiveCount     = 5
  })
}

resource "aws_sqs_queue_redrive_allow_policy" "refused" {
  queue_url = aws_sqs_queue.refused.id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.arrivals.arn]
  })
}

# Nobody but this bucket of this account may put messages in.
data "aws_iam_policy_document" "arrivals" {
  statement {
    sid       = "BucketOfSources"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.arrivals.arn]
    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [data.aws_s3_bucket.sources.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_sqs_queue_policy" "arrivals" {
  queue_url = aws_sqs_queue.arrivals.id
  policy    = data.aws_iam_policy_document.arrivals.json
}

resource "aws_s3_bucket_notification" "sources" {
  count  = var.notifications ? 1 : 0
  bucket = data.aws_s3_bucket.sources.id
  queue {
    id            = "ecif-arrivals"
    queue_arn     = aws_sqs_queue.arrivals.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = var.sources_prefix
  }
  depends_on = [aws_sqs_queue_policy.arrivals]
}

# The schedule of the flow `watch` finds what is not heard of; this tells that nobody listens.
resource "aws_cloudwatch_metric_alarm" "refused" {
  alarm_name          = "${var.name}-arrivals-refused"
  alarm_description   = "Messages about arrivals were refused: they name a place that is not allowed, or are damaged."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.refused.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
}
