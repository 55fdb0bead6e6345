package sink

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// Open opens the Bucket that a URL names: s3://BUCKET[/PREFIX], dir:PATH, file:///PATH or a plain
// path. The options count for S3 only; their Bucket and Prefix are taken from the URL. The store
// itself is not asked yet.
func Open(ctx context.Context, where string, o S3Options) (Bucket, error) {
	scheme, rest, ok := strings.Cut(where, ":")
	switch {
	case where == "":
		return nil, fmt.Errorf("open sink: no place is named; give dir:PATH or s3://BUCKET/PREFIX")
	case !ok || strings.ContainsAny(scheme, "/."):
		return OpenDir(where)
	case scheme == "dir" && rest != "":
		return OpenDir(rest)
	case scheme == "file" || scheme == "s3":
		u, err := url.Parse(where)
		if err != nil {
			return nil, fmt.Errorf("open sink: %w", err)
		}
		if scheme == "file" {
			if u.Host != "" || u.Path == "" {
				return nil, fmt.Errorf("open sink %q: a file URL has three slashes: file:///PATH", where)
			}
			return OpenDir(u.Path)
		}
		o.Bucket, o.Prefix = u.Host, strings.Trim(u.Path, "/")
		return OpenS3(ctx, o)
	}
	return nil, fmt.Errorf("open sink %q: give dir:PATH or s3://BUCKET/PREFIX", where)
}
