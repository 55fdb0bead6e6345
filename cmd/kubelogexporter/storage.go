package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
)

const defaultSink = "dir:./kubelogs"

// sinkFlags say where the archive is.
type sinkFlags struct {
	sink   string
	s3     sink.S3Options
	config string // a file that says so too, of commands that only read
}

func (s *sinkFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	modes := []string{"auto", "env", "files", "shared", "web-identity", "pod-identity", "instance-role"}
	f.StringVar(&s.sink, "sink", defaultSink, "where the archive is: dir:`PATH` or s3://BUCKET/PREFIX")
	f.StringVar(&s.s3.Endpoint, "s3-endpoint", "", "`URL` of an S3-compatible store (default: AWS)")
	f.StringVar(&s.s3.Region, "s3-region", "", "`region` of the bucket (default: AWS_REGION, else us-east-1)")
	f.StringVar(&s.s3.PathStyle, "s3-path-style", "auto", "bucket in the URL's path instead of its host: auto, on or off")
	f.StringVar(&s.s3.CAFile, "s3-ca-file", "", "PEM `file` of the CA that the store's certificate is checked with")
	f.StringVar(&s.s3.Credentials, "s3-credentials", "auto", "where credentials come from: "+strings.Join(modes, ", "))
	f.StringVar(&s.s3.AccessKeyIDFile, "s3-access-key-id-file", "", "`file` with the access key ID, read again when it changes")
	f.StringVar(&s.s3.SecretAccessKeyFile, "s3-secret-access-key-file", "", "`file` with the secret access key")
	f.StringVar(&s.s3.SessionTokenFile, "s3-session-token-file", "", "`file` with the session token, if there is one")
	complete(cmd, "s3-path-style", words("auto", "on", "off"))
	complete(cmd, "s3-credentials", words(modes...))
}

// registerRead is register for a command that only reads the archive.
func (s *sinkFlags) registerRead(cmd *cobra.Command) {
	s.register(cmd)
	cmd.Flags().StringVar(&s.config, "config", "", "configuration `file` that names the archive. Flags go before it")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// fromFlags takes the flags of a command whose own sinkFlags are out of reach.
func (s *sinkFlags) fromFlags(cmd *cobra.Command) {
	get := func(name string) string {
		v, _ := cmd.Flags().GetString(name)
		return v
	}
	s.sink, s.config = get("sink"), get("config")
	s.s3 = sink.S3Options{
		Endpoint: get("s3-endpoint"), Region: get("s3-region"), PathStyle: get("s3-path-style"), CAFile: get("s3-ca-file"),
		Credentials: get("s3-credentials"), AccessKeyIDFile: get("s3-access-key-id-file"),
		SecretAccessKeyFile: get("s3-secret-access-key-file"), SessionTokenFile: get("s3-session-token-file"),
	}
}

// open opens the sink; a directory is made if it is not there.
func (s *sinkFlags) open(ctx context.Context) (sink.Bucket, error) {
	if u, err := url.Parse(s.sink); err == nil && u.User != nil {
		return nil, usagef("--sink: credentials do not belong in the URL, where logs and process lists show them: use --s3-credentials")
	}
	b, err := sink.Open(ctx, s.sink, s.s3)
	var file *fs.PathError
	switch {
	case err == nil:
		return b, nil
	case errors.As(err, &file) && dirOf(s.sink) != "":
		return nil, &codeError{error: err, code: exitStorage, hints: []string{"name a directory that can be written, or an s3://BUCKET, with --sink"}}
	}
	return nil, &usageError{err}
}

// readArchive opens the archive that a command's flags or its configuration file name.
func (a *app) readArchive(ctx context.Context, cmd *cobra.Command, s *sinkFlags) (*archive.Archive, error) {
	if s.config != "" {
		settings, err := a.loadSettings(cmd, s.config)
		if err != nil {
			return nil, err
		}
		settings.applySink(s)
	}
	return s.read(ctx)
}

// read opens the sink as an archive, and changes nothing there. A directory that is not there is an error: to make it
// would hide a slip of the pen.
func (s *sinkFlags) read(ctx context.Context) (*archive.Archive, error) {
	if dir := dirOf(s.sink); dir != "" {
		d, err := sink.ReadDir(dir)
		if err != nil {
			return nil, &codeError{
				error: fmt.Errorf("there is no archive at %s: %w", dir, errors.Unwrap(err)), code: exitStorage,
				hints: []string{"name the archive with --sink or KUBELOGEXPORTER_SINK: dir:PATH or s3://BUCKET/PREFIX"},
			}
		}
		return archive.New(d), nil
	}
	b, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return archive.New(b), nil
}

// dirOf returns the directory that a sink's URL names, "" if it names none.
func dirOf(where string) string {
	scheme, rest, ok := strings.Cut(where, ":")
	switch {
	case !ok || strings.ContainsAny(scheme, "/."):
		return where
	case scheme == "dir":
		return rest
	case scheme == "file":
		if u, err := url.Parse(where); err == nil {
			return u.Path
		}
	}
	return ""
}

// spool returns where captures wait by default: inside a directory sink, else in the user's cache,
// apart for each bucket, because what waits for one must not be shipped to another.
func (s *sinkFlags) spool(b sink.Bucket, name string) (string, error) {
	if d, ok := b.(*sink.Dir); ok {
		return filepath.Join(d.Path(), name), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", &codeError{
			error: fmt.Errorf("find a directory for the spool: %w", err), code: exitError,
			hints: []string{"name one with --spool"},
		}
	}
	sum := sha256.Sum256([]byte(s.sink + "\n" + s.s3.Endpoint))
	return filepath.Join(cache, "kubelogexporter", strings.TrimPrefix(name, ".")+"-"+hex.EncodeToString(sum[:6])), nil
}
