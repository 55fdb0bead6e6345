package sink

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// StoreError is a failure of an object store, in words for people.
type StoreError struct {
	Op       string // put, open, stat, list or check
	Bucket   string
	Endpoint string
	Key      string // empty for the bucket as a whole
	Code     string // S3's error code; empty if the store did not answer
	Status   int    // HTTP status; 0 if the store did not answer
	Err      error
}

func (e *StoreError) Error() string {
	what := "bucket " + e.Bucket
	if e.Key != "" {
		what = e.Key + " in bucket " + e.Bucket
	}
	return fmt.Sprintf("%s %s at %s: %v", e.Op, what, e.Endpoint, e.Err)
}

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// wrap words an error of the client, and marks those that callers branch on.
func (s *S3) wrap(op, key string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	e := &StoreError{Op: op, Bucket: s.bucket, Endpoint: s.endpoint, Key: key, Err: err}
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		e.Code, e.Status = answer.Code, answer.StatusCode
		e.Err = fmt.Errorf("%s: %s", answer.Code, answer.Message)
		switch {
		case answer.Code == "PreconditionFailed" || answer.StatusCode == http.StatusPreconditionFailed,
			op == "put" && answer.StatusCode == http.StatusNotModified: // MinIO before 2024, issue 19442
			e.Err = ErrExists
		case answer.Code == "NoSuchKey", key != "" && answer.StatusCode == http.StatusNotFound && answer.Code != "NoSuchBucket":
			e.Err = ErrNotFound
		}
	}
	return e
}

// Class says what may be done about an error of a Bucket.
type Class int

// The classes.
const (
	// ClassRetry: a passing fault; ask again soon.
	ClassRetry Class = iota
	// ClassHold: it looks final and is not: people will mend it. Keep everything, ask again now and then.
	ClassHold
	// ClassItem: this object can never be stored as it is.
	ClassItem
)

// ClassOf sorts an error. What it does not know is worth a retry: nothing is ever given up for an
// unknown error.
func ClassOf(err error) Class {
	if errors.Is(err, ErrInvalidKey) {
		return ClassItem
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var store *StoreError
	switch {
	case errors.As(err, &unknown), errors.As(err, &name), errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, errNoCredentials):
		return ClassHold
	case !errors.As(err, &store):
		return ClassRetry
	}
	switch store.Code {
	case "EntityTooLarge", "KeyTooLongError", "XMinioInvalidObjectName":
		return ClassItem
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "NoSuchBucket", "PermanentRedirect", "RequestTimeTooSkewed",
		"AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return ClassHold
	}
	switch store.Status {
	case http.StatusForbidden, http.StatusUnauthorized, http.StatusMovedPermanently:
		return ClassHold
	}
	return ClassRetry
}

// Hint returns the next step for the user after an error of a Bucket, or "" if there is none to name.
func Hint(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var dns *net.DNSError
	var store *StoreError
	switch {
	case errors.Is(err, errNoCredentials):
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, mount them as files (--s3-credentials files), or give the service account a role"
	case errors.As(err, &unknown):
		return "name the store's own CA with --s3-ca-file"
	case errors.As(err, &name):
		return "the store's certificate is for another name: use that name in --s3-endpoint"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the store speaks plain HTTP there: write http:// in front of --s3-endpoint"
	case errors.As(err, &dns):
		return "check the host name in --s3-endpoint; a bucket name in front of it means that --s3-path-style on is needed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens at the endpoint: check --s3-endpoint, its port, and whether the store runs"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full: make room, the exporter goes on by itself"
	case !errors.As(err, &store):
		return ""
	}
	switch store.Code {
	case "NoSuchBucket":
		return fmt.Sprintf("create the bucket: aws s3 mb s3://%s --endpoint-url %s (or: mc mb ALIAS/%s)", store.Bucket, store.Endpoint, store.Bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidTokenId":
		return "the credentials are wrong or have expired: check the access key and its secret"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
		return "the bucket lies in another region: set --s3-region"
	case "RequestTimeTooSkewed":
		return "this machine's clock differs from the store's by more than 15 minutes: set it"
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded":
		return "the store is full or over its quota: make room, the exporter goes on by itself"
	}
	if store.Status == http.StatusBadRequest && strings.Contains(store.Err.Error(), "HTTP request to an HTTPS server") { // Go's words, so MinIO's
		return "the store speaks TLS there: write https:// in front of --s3-endpoint"
	}
	if store.Status == http.StatusForbidden {
		return fmt.Sprintf("grant s3:PutObject and s3:GetObject on %s/* and s3:ListBucket on %s", store.Bucket, store.Bucket)
	}
	return ""
}
