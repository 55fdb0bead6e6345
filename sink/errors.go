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
	"time"

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
	// RetryAfter is how long the store asks to be left alone; 0 if it does not say.
	RetryAfter time.Duration
	// Skew is how far the store's clock is ahead of ours; negative if it is behind. Set only where the store
	// refused a request for it.
	Skew time.Duration
	Err  error
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
	// ClassRetry: a passing fault of one request; ask again soon.
	ClassRetry Class = iota
	// ClassSlow: the store is asked for too much; ask less, and not before it says.
	ClassSlow
	// ClassHold: it looks final and is not: people will mend it. Keep everything, ask again now and then.
	ClassHold
	// ClassItem: the store takes others, but not this object as it is. Keep it, and go on with the others.
	ClassItem
)

// ClassOf sorts an error. What it does not know is worth a retry: nothing is ever given up for an
// unknown error.
func ClassOf(err error) Class {
	if errors.Is(err, ErrInvalidKey) || errors.Is(err, ErrDamaged) {
		return ClassItem
	}
	var store *StoreError
	switch {
	case distrusted(err), errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, errNoCredentials), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ClassHold
	case errors.Is(err, errTooSlow):
		return ClassSlow
	case !errors.As(err, &store):
		return ClassRetry
	}
	if c, ok := classOfCode(store.Code); ok {
		return c
	}
	switch store.Status {
	case http.StatusForbidden, http.StatusUnauthorized, http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPaymentRequired, http.StatusInsufficientStorage:
		return ClassHold
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return ClassSlow
	}
	return ClassRetry
}

// classOfCode sorts the codes of S3 and of the stores that speak like it. Where a status alone would say
// otherwise the code counts: MinIO answers 400 for a bucket over its quota, S3 for a token that expired.
func classOfCode(code string) (c Class, known bool) {
	switch code {
	case "SlowDown", "SlowDownWrite", "SlowDownRead", "ServerBusy", "ServiceUnavailable", "Throttling", "ThrottlingException",
		"RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "TooManyRequests", "XMinioServerNotInitialized":
		return ClassSlow, true
	case "EntityTooLarge", "KeyTooLongError", "MetadataTooLarge", "XMinioInvalidObjectName":
		return ClassItem, true
	case "NoSuchBucket", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
		"RequestTimeTooSkewed", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded",
		"AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired", "InvalidSecurity", "NotSignedUp",
		// What every object is stored with is wrong, so it is not this object's fault.
		"InvalidStorageClass", "InvalidTag", "InvalidEncryptionAlgorithmError", "NotImplemented", "InvalidArgument", "InvalidRequest",
		"ObjectLockConfigurationNotFoundError", "InvalidRetentionPeriod", "InvalidBucketState",
		"KMS.DisabledException", "KMS.InvalidStateException", "KMS.NotFoundException", "KMSInvalidStateException", "KMSNotConfigured",
		"XMinioKMSKeyNotFound", "XMinioKMSNotConfigured":
		return ClassHold, true
	}
	return 0, false
}

// distrusted says whether the store's certificate is not to be trusted.
func distrusted(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid)
}

// RetryAfter returns how long the store asks to be left alone, 0 if it does not say.
func RetryAfter(err error) time.Duration {
	var store *StoreError
	if errors.As(err, &store) {
		return store.RetryAfter
	}
	return 0
}

// Answered says whether the error is the store's own word, and not that nobody could be asked.
func Answered(err error) bool {
	var store *StoreError
	return errors.As(err, &store) && store.Status != 0
}

// Reason names an error in one word, for a metric: a code of S3 that this package knows, or what else
// stands in the way.
func Reason(err error) string {
	var store *StoreError
	switch {
	case errors.Is(err, errNoCredentials):
		return "NoCredentials"
	case distrusted(err):
		return "Certificate"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "DiskFull"
	case !errors.As(err, &store):
		return "Other"
	case store.Status == 0:
		return "Unreachable"
	}
	if _, known := classOfCode(store.Code); known {
		return store.Code
	}
	return "Other"
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
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full: make room, the exporter goes on by itself"
	case !errors.As(err, &store):
		return ""
	}
	switch store.Code {
	case "NoSuchBucket":
		return fmt.Sprintf("create the bucket: aws s3 mb s3://%s --endpoint-url %s (or: mc mb ALIAS/%s)", store.Bucket, store.Endpoint, store.Bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired":
		return "the credentials are wrong or have expired: check the access key and its secret"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
		return "the bucket lies in another region: set --s3-region"
	case "RequestTimeTooSkewed":
		if store.Skew != 0 {
			return fmt.Sprintf("this machine's clock is %s: set it", skewText(store.Skew))
		}
		return "this machine's clock differs from the store's by more than 15 minutes: set it"
	case "InvalidStorageClass":
		return "the store does not know the storage class: name another, or none"
	case "InvalidTag":
		return "the store does not take the tags: keep to 10 tags of letters, digits, spaces and + - = . _ : / @"
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded":
		return "the store is full or over its quota: make room, the exporter goes on by itself"
	}
	if store.Status == http.StatusBadRequest && strings.Contains(store.Err.Error(), "HTTP request to an HTTPS server") { // Go's words, so MinIO's
		return "the store speaks TLS there: write https:// in front of --s3-endpoint"
	}
	if strings.Contains(store.Code, "KMS") {
		return "the store cannot use the encryption key: check the key's ID, its state and its policy"
	}
	if store.Status == http.StatusForbidden {
		return fmt.Sprintf("grant s3:PutObject and s3:GetObject on %s/* and s3:ListBucket on %s", store.Bucket, store.Bucket)
	}
	return ""
}

// skewText says how far our clock is off.
func skewText(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " ahead of the store's"
	}
	return ahead.Round(time.Second).String() + " behind the store's"
}
