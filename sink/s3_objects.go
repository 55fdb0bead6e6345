package sink

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"time"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/tags"
)

// ObjectOptions are what every object is stored with. The zero value leaves all of it to the bucket,
// which is where encryption, retention and tiers are best set.
type ObjectOptions struct {
	// Encryption is empty for the bucket's own default, s3 for SSE-S3 or kms for SSE-KMS.
	Encryption string
	KMSKeyID   string // of SSE-KMS; empty means the account's own key
	// StorageClass is a class of the store, such as STANDARD_IA. Most classes but STANDARD bill at least
	// 128 KiB for each object, and most logs are smaller.
	StorageClass string
	// LockMode is empty, governance or compliance, LockFor how long an object may then not be deleted,
	// counted from its upload.
	LockMode string
	LockFor  time.Duration
	// Tags are 10 at most. Some stores know none; there objects are stored without.
	Tags map[string]string
	// Checksum is empty, sha256 or crc64nvme: a checksum that is sent along and kept by the store beside
	// the object. Not every store knows it. MD5 and the signed SHA-256 are always sent.
	Checksum string
}

// putOptions are ObjectOptions that have been checked.
type putOptions struct {
	sse      encrypt.ServerSide
	class    string
	lock     minio.RetentionMode
	lockFor  time.Duration
	tags     map[string]string
	checksum string
	noTags   atomic.Bool // the store knows none: see dropTags
}

// newPutOptions checks the options, all of them at once.
func newPutOptions(o ObjectOptions) (*putOptions, error) {
	p := &putOptions{class: o.StorageClass, lockFor: o.LockFor, tags: maps.Clone(o.Tags), checksum: o.Checksum}
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch o.Encryption {
	case "":
	case "s3":
		p.sse = encrypt.NewSSE()
	case "kms":
		sse, err := encrypt.NewSSEKMS(o.KMSKeyID, nil)
		if err != nil {
			add("encryption with KMS: %w", err)
		}
		p.sse = sse
	default:
		add("encryption %q: want s3 or kms", o.Encryption)
	}
	if o.KMSKeyID != "" && o.Encryption != "kms" {
		add("a KMS key is named, but the encryption is not kms")
	}
	switch o.LockMode {
	case "":
	case "governance":
		p.lock = minio.Governance
	case "compliance":
		p.lock = minio.Compliance
	default:
		add("lock mode %q: want governance or compliance", o.LockMode)
	}
	if (o.LockMode == "") != (o.LockFor == 0) || o.LockFor < 0 {
		add("a lock needs a mode and a time above 0")
	}
	if _, err := tags.MapToObjectTags(o.Tags); err != nil {
		add("tags: %w", err)
	}
	if o.Checksum != "" && o.Checksum != "sha256" && o.Checksum != "crc64nvme" {
		add("checksum %q: want sha256 or crc64nvme", o.Checksum)
	}
	return p, errors.Join(problems...)
}

// options are those of one upload.
func (p *putOptions) options(key string, sums digests, body io.ReadSeeker) (minio.PutObjectOptions, error) {
	o := minio.PutObjectOptions{ContentType: contentType(key), DisableMultipart: true, DisableContentSha256: true} // the body's own hash is signed
	p.apply(&o)
	if p.lock != "" {
		o.Mode, o.RetainUntilDate = p.lock, time.Now().Add(p.lockFor).UTC()
	}
	switch p.checksum {
	case "sha256":
		o.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(sums.sha256)}
	case "crc64nvme":
		sum := crc64nvme.New()
		start, err := body.Seek(0, io.SeekCurrent)
		if err == nil {
			_, err = io.Copy(sum, body)
		}
		if err == nil {
			_, err = body.Seek(start, io.SeekStart)
		}
		if err != nil {
			return o, err
		}
		o.UserMetadata = map[string]string{"x-amz-checksum-crc64nvme": base64.StdEncoding.EncodeToString(sum.Sum(nil))}
	}
	return o, nil
}

// apply sets what a store may refuse.
func (p *putOptions) apply(o *minio.PutObjectOptions) {
	o.ServerSideEncryption, o.StorageClass = p.sse, p.class
	if !p.noTags.Load() {
		o.UserTags = p.tags
	}
}

// special says whether there is anything that a store may refuse.
func (p *putOptions) special() bool { return p.sse != nil || p.class != "" || len(p.tags) > 0 }
