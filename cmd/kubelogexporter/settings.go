package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// settings are a configuration file in use by a command.
type settings struct {
	file   string
	how    config.Options // what goes before the file
	config *config.Config
}

// loadSettings reads a file. What was set by flags goes before it.
func (a *app) loadSettings(cmd *cobra.Command, file string) (*settings, error) {
	c, err := a.loadConfig(cmd, file)
	if err != nil {
		return nil, err
	}
	return &settings{file: file, how: a.configOptions(cmd), config: c}, nil
}

// load reads the file as it is now.
func (s *settings) load() (*config.Config, error) { return config.Load(s.file, s.how) }

// nextStarts are the next three starts of an export.
func nextStarts(x *config.Export) (starts []time.Time, err error) {
	s, err := schedule.Parse(scheduleSpec(x.Schedule, x.WatchFor))
	if err != nil {
		return nil, err
	}
	at := time.Now()
	for range 3 {
		if at = s.Next(at); at.IsZero() {
			break
		}
		starts = append(starts, at.Add(s.JitterOf(x.Name)))
	}
	return starts, nil
}

// configKube is how a configuration says to reach the cluster.
func configKube(c *config.Config) *kubeFlags {
	return &kubeFlags{kubeconfig: c.Kubernetes.Kubeconfig, context: c.Kubernetes.Context, cluster: c.Cluster}
}

// s3Options are a configuration's bucket.
func s3Options(b *config.S3) sink.S3Options {
	o := sink.S3Options{
		Endpoint: b.Endpoint, Region: b.Region, Bucket: b.Bucket, Prefix: b.Prefix, PathStyle: b.PathStyle, CAFile: b.CAFile,
		Credentials: b.Credentials, AccessKeyIDFile: b.AccessKeyIDFile, SecretAccessKeyFile: b.SecretAccessKeyFile, SessionTokenFile: b.SessionTokenFile,
		Objects: sink.ObjectOptions{StorageClass: b.StorageClass, Tags: b.Tags, Checksum: b.Checksum},
	}
	if b.SSE != nil {
		o.Objects.Encryption, o.Objects.KMSKeyID = b.SSE.Type, b.SSE.KMSKeyID
	}
	if b.ObjectLock != nil {
		o.Objects.LockMode, o.Objects.LockFor = b.ObjectLock.Mode, time.Duration(b.ObjectLock.Retain)
	}
	return o
}

func scheduleSpec(c *config.Schedule, watchFor config.Duration) schedule.Spec {
	return schedule.Spec{
		Cron: c.Cron, TimeZone: c.TimeZone, ConcurrencyPolicy: schedule.ConcurrencyPolicy(c.ConcurrencyPolicy),
		StartingDeadline: time.Duration(c.StartingDeadline), CatchUp: schedule.CatchUp(c.CatchUp),
		Jitter: time.Duration(c.Jitter), Suspend: c.Suspend, WatchFor: time.Duration(watchFor),
	}
}

func redactor(c *config.Redaction) (*redact.Redactor, error) {
	var rules []redact.Rule
	for _, r := range redact.Builtin() {
		if c.Builtin.All || slices.Contains(c.Builtin.Names, r.Name) {
			rules = append(rules, r)
		}
	}
	for _, r := range c.Rules {
		rules = append(rules, redact.Rule{Name: r.Name, Pattern: r.Pattern, Replacement: r.Replace})
	}
	return redact.New(rules)
}

// exportsOf makes the exports that a configuration describes.
func exportsOf(c *config.Config) ([]exporter.Export, error) {
	var list []exporter.Export
	for i := range c.Exports {
		x := &c.Exports[i]
		e := exporter.Export{Name: x.Name, Select: x.Compiled, Capture: exporter.Capture(x.Capture)}
		var err error
		if e.Compression, err = bundle.ParseCompression(x.Compression); err != nil {
			return nil, fmt.Errorf("export %s: %w", x.Name, err)
		}
		if x.Redact != nil {
			if e.Redact, err = redactor(x.Redact); err != nil {
				return nil, fmt.Errorf("export %s: %w", x.Name, err)
			}
		}
		if x.Schedule != nil {
			if e.Schedule, err = schedule.Parse(scheduleSpec(x.Schedule, x.WatchFor)); err != nil {
				return nil, fmt.Errorf("export %s: %w", x.Name, err)
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// apply puts what the file says where the command's flags would have put it.
func (s *settings) apply(c *captureFlags) {
	f := s.config
	c.kube.kubeconfig, c.kube.context, c.kube.cluster = f.Kubernetes.Kubeconfig, f.Kubernetes.Context, f.Cluster
	c.spool, c.spoolMax = f.Spool.Path, bytesText(f.Spool.MaxSize)
	s.applySink(&c.sink)
	c.log.format, c.log.level = f.Log.Format, f.Log.Level
	s.applyRead(&c.read)
}

// applySink does so for the flags that say where the archive is.
func (s *settings) applySink(f *sinkFlags) {
	b := s.config.Sink.S3
	if b == nil {
		f.sink = "dir:" + s.config.Sink.Dir
		return
	}
	f.sink, f.s3 = "s3://"+strings.TrimSuffix(b.Bucket+"/"+b.Prefix, "/"), s3Options(b)
}

// applyRead does so for the flags that say how logs are read.
func (s *settings) applyRead(r *readFlags) {
	k := s.config.Kubelets
	r.nodeLogs, r.rotateAt = k.NodeLogs, bytesText(k.ContainerLogMaxSize)
	r.bytesPerSec = bytesText(s.config.Limits.ReadRate)
	r.kubelets.CAFile, r.kubelets.InsecureSkipVerify = k.CAFile, k.InsecureSkipVerify
	r.kubelets.Port, r.kubelets.MaxFiles = k.Port, k.ContainerLogMaxFiles
}

// bytesText is a size as a flag takes it.
func bytesText(s config.Size) string { return strconv.FormatInt(int64(s), 10) }

// options are the rest of what the file says.
func (s *settings) options(o *exporter.Options) error {
	f := s.config
	var err error
	if o.Exports, err = exportsOf(f); err != nil {
		return err
	}
	o.Follows, o.Reads, o.LiveFollows, o.Uploads = f.Limits.Follows, f.Limits.Reads, f.Limits.LiveFollows, f.Limits.Uploads
	o.NodeFollows = f.Limits.FollowsPerNode
	o.SpoolMinFree = int64(f.Spool.MinFree)
	return nil
}

// only leaves one of the exports, by its name; an empty name leaves all.
func (s *settings) only(o *exporter.Options, name string) error {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(o.Exports, func(x exporter.Export) bool { return x.Name == name })
	if i < 0 {
		var names []string
		for _, x := range o.Exports {
			names = append(names, x.Name)
		}
		return usagef("--export: %s has no export %q; there are %s", s.file, name, cmp.Or(strings.Join(names, ", "), "none"))
	}
	// Those before it stay in front: what they take, in their windows if they have some, is theirs.
	o.Exports[i].Schedule = nil // whoever asks for it now does not mean its windows
	o.Exports = o.Exports[:i+1]
	o.Only = name
	return nil
}
