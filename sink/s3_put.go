package sink

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag of a single PUT is an MD5
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"
)

// digests are the sums of a body.
type digests struct {
	size        int64
	md5, sha256 []byte
}

// digest makes the sums of a body before it is sent. The MD5 of a Whole is known; its SHA-256 is made
// anew, because the bytes may have changed since.
func digest(body io.Reader) (digests, error) {
	h, m := sha256.New(), md5.New() //nolint:gosec // see above
	w, whole := body.(Whole)
	to := io.Writer(h)
	known, err := hex.DecodeString(w.MD5)
	if err != nil || len(known) != md5.Size {
		known, to = nil, io.MultiWriter(h, m)
	}
	// Over pieces that stay in the processor's cache.
	d := digests{}
	d.size, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{body}, make([]byte, 128<<10))
	d.sha256, d.md5 = h.Sum(nil), known
	if known == nil {
		d.md5 = m.Sum(nil)
	}
	if err == nil && whole && w.SHA256 != hex.EncodeToString(d.sha256) {
		err = fmt.Errorf("%w: its sha256 is %x and should be %s", ErrDamaged, d.sha256, w.SHA256)
	}
	return d, err
}

// crcReader makes the CRC-64/NVME of a body while it is sent. A store may answer before it has read
// everything, so what is asked of it may come beside the sending.
type crcReader struct {
	io.ReadSeeker
	size int64

	mu   sync.Mutex
	sum  hash.Hash64
	read int64
}

func (c *crcReader) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Write(p[:n])
	c.read += int64(n)
	return n, err
}

func (c *crcReader) Seek(offset int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Reset() // a body is sent from its beginning
	c.read = 0
	return c.ReadSeeker.Seek(offset, whence)
}

// crc returns the sum, or "" if the body was not sent whole.
func (c *crcReader) crc() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read != c.size {
		return ""
	}
	return base64.StdEncoding.EncodeToString(c.sum.Sum(nil))
}

// Put implements Bucket. The SHA-256 of the body is signed and its MD5 goes along, so that the store
// refuses a body that was damaged on the way; what the store answers is compared with both.
func (s *S3) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	return s.store(ctx, key, body, "")
}

// Replace implements Replacer.
func (s *S3) Replace(ctx context.Context, key string, body io.ReadSeeker, old Object) error {
	if old.ETag == "" {
		return fmt.Errorf("replace %s: the store gives no ETag to tell the objects apart by", key)
	}
	return s.store(ctx, key, body, old.ETag)
}

// store puts an object: where nothing is, or, if replaces is an ETag, in that object's place.
func (s *S3) store(ctx context.Context, key string, body io.ReadSeeker, replaces string) error {
	full, err := s.key(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	start, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	sums, err := digest(body)
	if err == nil {
		_, err = body.Seek(start, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("put %s: read body: %w", key, err)
	}
	can, err := s.conditions(ctx, key)
	if err != nil {
		return err
	}
	o, err := s.put.options(key, sums, body)
	if err != nil {
		return fmt.Errorf("put %s: read body: %w", key, err)
	}
	if replaces == "" {
		err = s.createOnly(ctx, key, can, &o)
	} else {
		err = s.replaceOnly(ctx, key, replaces, can, &o)
	}
	var e *StoreError
	if errors.As(err, &e) && e.Status == http.StatusForbidden {
		s.creds.Expire() // an answer to HEAD has no body, so it does not say whether the keys are stale
	}
	if err != nil {
		return err
	}
	err = s.send(ctx, key, full, body, start, sums, o)
	if notImplemented(err) && len(o.UserTags) > 0 {
		if _, serr := body.Seek(start, io.SeekStart); serr == nil {
			o.UserTags = nil
			if err = s.send(ctx, key, full, body, start, sums, o); err == nil {
				s.dropTags()
			}
		}
	}
	switch {
	case err == nil && !can.known:
		s.probed.forbidden() // objects may be stored, and the probe may not: so it stays
	case errors.Is(err, ErrExists) && replaces != "":
		return fmt.Errorf("replace %s: %w", key, ErrChanged)
	}
	return err
}

// createOnly makes a request one that changes nothing that is there, as far as the store can.
func (s *S3) createOnly(ctx context.Context, key string, can abilities, o *minio.PutObjectOptions) error {
	if can.create {
		o.SetMatchETagExcept("*")
	}
	if can.create && can.known {
		return nil
	}
	_, err := s.Stat(ctx, key)
	switch {
	case err == nil:
		return fmt.Errorf("put %s: %w", key, ErrExists)
	case errors.Is(err, ErrNotFound), can.create:
		return nil // if the store cannot be asked, it may still know the condition
	}
	return err
}

func (s *S3) replaceOnly(ctx context.Context, key, etag string, can abilities, o *minio.PutObjectOptions) error {
	if can.replace {
		o.SetMatchETag(etag)
		return nil
	}
	now, err := s.Stat(ctx, key)
	if err == nil && now.ETag != etag {
		return fmt.Errorf("replace %s: %w", key, ErrChanged)
	}
	return err
}

// send makes the one request that stores an object.
func (s *S3) send(ctx context.Context, key, full string, body io.ReadSeeker, start int64, sums digests, o minio.PutObjectOptions) error {
	content := &crcReader{ReadSeeker: body, size: sums.size, sum: crc64nvme.New()}
	if at, ok := body.(io.ReaderAt); ok {
		content.ReadSeeker = io.NewSectionReader(at, start, sums.size)
	}
	var said answer
	limit, cuts := s.pace.limit(sums.size)
	began := time.Now()
	within, cancel := context.WithTimeout(context.WithValue(ctx, answerKey{}, &said), limit)
	defer cancel()
	core := minio.Core{Client: s.client}
	info, err := core.PutObject(within, s.bucket, full, content, sums.size,
		base64.StdEncoding.EncodeToString(sums.md5), hex.EncodeToString(sums.sha256), o)
	switch {
	case err == nil:
		s.pace.arrived(sums.size, time.Since(began), cuts)
		return s.compare(ctx, key, full, info, sums, content.crc())
	case ctx.Err() != nil:
		return fmt.Errorf("put %s: %w", key, ctx.Err())
	case within.Err() != nil:
		s.pace.cut(cuts)
		err = fmt.Errorf("%w: %d bytes took longer than %s", errTooSlow, sums.size, limit)
	}
	err = s.failed("put", key, err)
	var e *StoreError
	if errors.As(err, &e) {
		e.RetryAfter = said.retryAfter
		if e.Code == "RequestTimeTooSkewed" {
			e.Skew = said.skew
		}
	}
	return err
}

// compare checks what the store answers against what was sent. A 200 alone proves nothing, because a proxy in
// front of a store gives one as well: where no sum in the answer is one of ours, the store is asked what it
// has. An ETag is no MD5 where the store encrypts with keys of its own. AWS answers with a CRC-64/NVME that it
// made itself.
func (s *S3) compare(ctx context.Context, key, full string, info minio.UploadInfo, sums digests, crc string) error {
	other := func(what string, got, want any) error {
		return s.failed("put", key, fmt.Errorf("%w: its %s is %v, ours %v", ErrMismatch, what, got, want))
	}
	proven := false
	for _, sum := range [...]struct{ name, got, want string }{
		{"CRC-64/NVME", info.ChecksumCRC64NVME, crc},
		{"SHA-256", info.ChecksumSHA256, base64.StdEncoding.EncodeToString(sums.sha256)},
	} {
		switch {
		case sum.got == "" || sum.want == "" || info.ChecksumMode != "" && info.ChecksumMode != "FULL_OBJECT":
		case sum.got != sum.want:
			return other(sum.name, sum.got, sum.want)
		default:
			proven = true
		}
	}
	want := hex.EncodeToString(sums.md5)
	otherMD5 := !strings.EqualFold(info.ETag, want) && len(info.ETag) == len(want) && isHex(info.ETag)
	if strings.EqualFold(info.ETag, want) || proven && !otherMD5 {
		return nil
	}
	now, err := s.client.StatObject(ctx, s.bucket, full, minio.StatObjectOptions{})
	err = s.failed("stat", key, err)
	switch {
	case errors.Is(err, ErrNotFound):
		return s.failed("put", key, fmt.Errorf("%w: it says that it has stored the object, and has none", ErrMismatch))
	case err != nil:
		return err
	case otherMD5 && !strings.HasPrefix(now.Metadata.Get("X-Amz-Server-Side-Encryption"), "aws:kms"):
		return other("ETag", info.ETag, want)
	case now.Size != sums.size:
		return other("size", now.Size, sums.size)
	}
	return nil
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

// notImplemented says whether the store knows no such header.
func notImplemented(err error) bool {
	var e *StoreError
	return errors.As(err, &e) && (e.Status == http.StatusNotImplemented || e.Code == "NotImplemented")
}
