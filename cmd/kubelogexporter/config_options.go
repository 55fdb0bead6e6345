package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// configKube is how a configuration says to reach the cluster.
func configKube(c *config.Config) *kubeFlags {
	return &kubeFlags{kubeconfig: c.Kubernetes.Kubeconfig, context: c.Kubernetes.Context, cluster: c.Cluster}
}

// s3Options are a configuration's bucket.
func s3Options(s *config.S3) sink.S3Options {
	return sink.S3Options{
		Endpoint: s.Endpoint, Region: s.Region, Bucket: s.Bucket, Prefix: s.Prefix, PathStyle: s.PathStyle, CAFile: s.CAFile,
		Credentials: s.Credentials, AccessKeyIDFile: s.AccessKeyIDFile, SecretAccessKeyFile: s.SecretAccessKeyFile, SessionTokenFile: s.SessionTokenFile,
	}
}

// openSink opens a configuration's sink.
func openSink(ctx context.Context, c *config.Config) (sink.Bucket, error) {
	if c.Sink.S3 != nil {
		return sink.OpenS3(ctx, s3Options(c.Sink.S3))
	}
	return sink.OpenDir(c.Sink.Dir)
}

// exporterOptions are what a configuration says for all exports. The cluster, the bucket, the spool if
// none is named, and what the process brings itself are left to the caller.
func exporterOptions(c *config.Config, log *slog.Logger) exporter.Options {
	o := exporter.Options{
		Spool: c.Spool.Path, Log: log, Version: buildVersion().Version,
		NodeLogs: exporter.NodeLogs(c.Kubelets.NodeLogs),
		Kubelets: nodelog.Options{
			CAFile: c.Kubelets.CAFile, InsecureSkipVerify: c.Kubelets.InsecureSkipVerify, Port: c.Kubelets.Port, MaxFiles: c.Kubelets.ContainerLogMaxFiles,
		},
		RotateAt: int64(c.Kubelets.ContainerLogMaxSize),
		Follows:  c.Limits.Follows, Reads: c.Limits.Reads, LiveFollows: c.Limits.LiveFollows, NodeFollows: c.Limits.FollowsPerNode,
		ReadRate: int64(c.Limits.ReadRate), Uploads: c.Limits.Uploads, Grace: time.Duration(c.Limits.Grace),
	}
	o.Namespaces, _ = c.Selections().Namespaces()
	return o
}

// exportOptions adds what one of the exports says for itself.
func exportOptions(o exporter.Options, e *config.Export) (exporter.Options, error) {
	var err error
	o.Capture = exporter.Capture(e.Capture)
	o.Compression, err = bundle.ParseCompression(e.Compression)
	return o, err
}

// unwired lists the keys of a configuration that this program reads, but does not act on yet. Who relies
// on one must be told.
func unwired(c *config.Config) (keys []string) {
	add := func(set bool, key string) {
		if set {
			keys = append(keys, key)
		}
	}
	if s := c.Sink.S3; s != nil {
		add(s.SSE != nil, "sink.s3.sse")
		add(s.StorageClass != "", "sink.s3.storageClass")
		add(s.ObjectLock != nil, "sink.s3.objectLock")
		add(len(s.Tags) > 0, "sink.s3.tags")
		add(s.Checksum != "", "sink.s3.checksum")
	}
	add(c.Spool.MaxSize != 0, "spool.maxSize")
	add(c.Spool.MinFree != 0, "spool.minFree")
	add(c.HTTP.Triggers != nil, "http.triggers")
	add(c.Notifications.CloudEvents != nil, "notifications.cloudEvents")
	for _, e := range c.Exports {
		add(!e.Compiled.Everything(), "exports[].selection of "+e.Name)
		add(e.Redact != nil, "exports[].redact of "+e.Name)
		add(e.Schedule != nil, "exports[].schedule of "+e.Name)
	}
	add(len(c.Exports) > 1, "exports: more than one")
	return keys
}
