// Package selection decides whether an export takes a container run.
// It never asks the cluster for anything, and where an expression fails it decides for the log, never against it.
package selection
