package sink

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// S3Options say where a bucket is and who we are there.
type S3Options struct {
	// Endpoint is host[:port] or a URL; http:// switches TLS off. Empty means AWS.
	Endpoint string
	Region   string // empty means AWS_REGION, AWS_DEFAULT_REGION or else us-east-1, which most other stores take
	Bucket   string
	Prefix   string // in front of every key, without slashes around it
	// PathStyle is auto, on or off: whether the bucket stands in the path or in the host name.
	PathStyle string
	// CAFile holds PEM certificates that are trusted beside the system's.
	CAFile string
	// Credentials is the place that keys come from, one of auto, env, files, shared, web-identity,
	// pod-identity, instance-role.
	Credentials                                            string
	AccessKeyIDFile, SecretAccessKeyFile, SessionTokenFile string
	// Objects is what every object is stored with.
	Objects ObjectOptions
	// Patience is how long requests may take.
	Patience Patience
	// Limited is told, once each, of what the store turns out not to do. It may be nil.
	Limited func(limit string)
}

// S3 is a Bucket in an S3-compatible store. It uploads by single PUTs of known size, and never by
// parts: so an object is whole or not there, and If-None-Match holds.
type S3 struct {
	client   *minio.Client
	creds    *credentials.Credentials
	bucket   string
	prefix   string
	endpoint string
	put      *putOptions
	probed   conditions
	pace     pace
	limited  func(limit string)
}

var (
	_ Bucket   = (*S3)(nil)
	_ Replacer = (*S3)(nil)
)

// OpenS3 checks the options, all of them at once, and makes the client. It does not ask the store:
// a store that is away must not keep a program from starting. Check asks.
func OpenS3(_ context.Context, o S3Options) (*S3, error) {
	var problems []error
	host, secure, err := parseEndpoint(o.Endpoint)
	problems = append(problems, err)
	if !ValidBucket(o.Bucket) {
		problems = append(problems, fmt.Errorf("bucket %q: a name has 3 to 63 lower-case letters, digits, dots and hyphens, with a letter or a digit at both ends", o.Bucket))
	}
	if o.Prefix != "" {
		if err := CheckKey(o.Prefix); err != nil {
			problems = append(problems, fmt.Errorf("prefix: %w", err))
		}
	}
	lookup, ok := map[string]minio.BucketLookupType{
		"": minio.BucketLookupAuto, "auto": minio.BucketLookupAuto, "on": minio.BucketLookupPath, "off": minio.BucketLookupDNS,
	}[o.PathStyle]
	if !ok {
		problems = append(problems, fmt.Errorf("path style %q: want auto, on or off", o.PathStyle))
	}
	o.Region = cmp.Or(o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	transport, err := newTransport(secure, o.CAFile)
	problems = append(problems, err)
	creds, err := newCredentials(o, &http.Client{Transport: transport, Timeout: 30 * time.Second})
	problems = append(problems, err)
	put, err := newPutOptions(o.Objects)
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("open S3 bucket: %w", err)
	}
	stall := &stallGuard{next: transport, limit: cmp.Or(o.Patience.Stall, stallTimeout)}
	client, err := minio.New(host, &minio.Options{
		Creds: creds, Secure: secure, Transport: stall, BucketLookup: lookup,
		Region:     cmp.Or(o.Region, "us-east-1"), // asking the store for it is a request that is not retried
		MaxRetries: 1,                             // the caller retries, with knowledge of what waits
	})
	if err != nil {
		return nil, fmt.Errorf("open S3 bucket: %w", err)
	}
	s := &S3{client: client, creds: creds, bucket: o.Bucket, endpoint: client.EndpointURL().String(), put: put}
	s.pace.init(o.Patience)
	if s.limited = o.Limited; s.limited == nil {
		s.limited = func(string) {}
	}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	return s, nil
}

func parseEndpoint(endpoint string) (host string, secure bool, err error) {
	if endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("endpoint: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.User != nil:
		return "", false, fmt.Errorf("endpoint %q: want host[:port], http://host[:port] or https://host[:port]", u.Redacted())
	}
	return u.Host, u.Scheme == "https", nil
}

// ValidBucket says whether a store can have a bucket of this name.
func ValidBucket(name string) bool { return s3utils.CheckValidBucketNameStrict(name) == nil }

func newTransport(secure bool, caFile string) (*http.Transport, error) {
	t, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, fmt.Errorf("make transport: %w", err)
	}
	t.MaxIdleConnsPerHost = 64 // as many uploads as a program runs side by side
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile) //nolint:gosec // the user names the file
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: no PEM certificate in it", caFile)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = roots
	return t, nil
}

// String names the bucket without any secret.
func (s *S3) String() string { return "s3://" + s.bucket + "/" + s.prefix + " at " + s.endpoint }

// Check makes one cheap request, to tell a user at once what is wrong.
func (s *S3) Check(ctx context.Context) error {
	for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, MaxKeys: 1}) {
		return s.failed("check", "", o.Err)
	}
	return nil
}

// failed words an error and drops credentials that the store has refused, so that the next try reads
// them again.
func (s *S3) failed(op, key string, err error) error {
	err = s.wrap(op, key, err)
	var e *StoreError
	if errors.As(err, &e) && (e.Status == http.StatusUnauthorized || slices.Contains(staleKeys[:], e.Code)) {
		s.creds.Expire()
	}
	return err
}

// staleKeys are the codes by which a store refuses keys that may have been replaced meanwhile.
var staleKeys = [...]string{ //nolint:gochecknoglobals // a constant list
	"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "SignatureDoesNotMatch", "TokenRefreshRequired",
}

// key checks a key and puts the prefix in front of it.
func (s *S3) key(key string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	if full := s.prefix + key; len(full) <= maxKey {
		return full, nil
	}
	return "", fmt.Errorf("%w %q: with the prefix it has more than %d bytes", ErrInvalidKey, key, maxKey)
}

func contentType(key string) string {
	switch path.Ext(key) {
	case ".json":
		return "application/json"
	case ".zst":
		return "application/zstd"
	case ".gz":
		return "application/gzip"
	}
	return "application/octet-stream"
}

// Open implements Bucket.
func (s *S3) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	full, err := s.key(key)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, fmt.Errorf("open %s: offset %d is negative", key, offset)
	}
	if length == 0 {
		_, err := s.Stat(ctx, key)
		return io.NopCloser(strings.NewReader("")), err
	}
	var o minio.GetObjectOptions
	if offset > 0 || length > 0 {
		end := int64(0) // minio-go's word for "up to the end", with an offset above 0
		if length > 0 {
			end = offset + length - 1
		}
		if err := o.SetRange(offset, end); err != nil {
			return nil, fmt.Errorf("open %s: %w", key, err)
		}
	}
	core := minio.Core{Client: s.client}
	body, info, header, err := core.GetObject(ctx, s.bucket, full, o)
	if err != nil {
		err = s.failed("open", key, err)
		var e *StoreError
		if errors.As(err, &e) && e.Status == http.StatusRequestedRangeNotSatisfiable {
			return io.NopCloser(strings.NewReader("")), nil
		}
		return nil, err
	}
	if header.Get("Content-Range") == "" && (offset > 0 || length > 0 && info.Size > length) {
		return nil, s.wrap("open", key, errors.Join(errors.New("the store ignores ranges: it sent the whole object"), body.Close()))
	}
	return &objectReader{s: s, key: key, body: body, left: info.Size}, nil
}

// objectReader fails when the store delivers less than it announced.
type objectReader struct {
	s    *S3
	key  string
	body io.ReadCloser
	left int64
}

func (r *objectReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.left -= int64(n)
	switch {
	case err == io.EOF && r.left > 0: //nolint:errorlint // a reader returns io.EOF itself
		return n, r.s.wrap("open", r.key, io.ErrUnexpectedEOF)
	case err != nil && err != io.EOF: //nolint:errorlint // as above
		return n, r.s.wrap("open", r.key, err)
	}
	return n, err
}

func (r *objectReader) Close() error { return r.body.Close() }

// Stat implements Bucket.
func (s *S3) Stat(ctx context.Context, key string) (Object, error) {
	full, err := s.key(key)
	if err != nil {
		return Object{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, full, minio.StatObjectOptions{})
	if err != nil {
		return Object{}, s.failed("stat", key, err)
	}
	return Object{Key: key, Size: info.Size, ModTime: info.LastModified, ETag: info.ETag}, nil
}

// List implements Bucket.
func (s *S3) List(ctx context.Context, prefix string, o ListOptions) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if matchesNothing(prefix) {
			return
		}
		lo := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: !o.Shallow}
		if o.After != "" {
			lo.StartAfter = s.prefix + o.After
		}
		var folded []Object // a page gives its objects before its folders: put them in order
		for info := range s.client.ListObjectsIter(ctx, s.bucket, lo) {
			if info.Err != nil {
				yield(Object{}, s.failed("list", prefix, info.Err))
				return
			}
			obj := Object{Key: strings.TrimPrefix(info.Key, s.prefix), Size: info.Size, ModTime: info.LastModified, ETag: strings.Trim(info.ETag, `"`)}
			switch {
			case obj.Key <= o.After:
			case CheckKey(strings.TrimSuffix(obj.Key, "/")) != nil, !o.Shallow && strings.HasSuffix(obj.Key, "/"):
				// Somebody else's: a console's mark for an empty folder, say. Nobody could open it here.
			case o.Shallow:
				folded = append(folded, obj)
			case !yield(obj, nil):
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Object{}, err)
			return
		}
		slices.SortFunc(folded, func(a, b Object) int { return strings.Compare(a.Key, b.Key) })
		for _, obj := range folded {
			if !yield(obj, nil) {
				return
			}
		}
	}
}
