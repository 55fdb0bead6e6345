// Package exporter captures the log of every container run that ends and does not forget one until it is in the bucket.
// It never deletes anything in the cluster or in the bucket, and it holds no state of its own beside the spool.
package exporter
