package sink

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/minio/minio-go/v7"
)

var _ Checksummer = (*S3)(nil)

// Checksums implements Checksummer, with one HEAD request, for which the right to read is enough.
func (s *S3) Checksums(ctx context.Context, key string) (Checksums, error) {
	full, err := s.key(key)
	if err != nil {
		return Checksums{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, full, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return Checksums{}, s.failed("stat", key, err)
	}
	c := Checksums{Object: Object{Key: key, Size: info.Size, ModTime: info.LastModified, ETag: info.ETag}}
	// An ETag is the MD5 unless the object was stored in parts, when it has a "-", or is encrypted with
	// keys that are not the store's own.
	// https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
	encrypted := strings.HasPrefix(info.Headers.Get("X-Amz-Server-Side-Encryption"), "aws:kms") ||
		info.Headers.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != ""
	if etag := strings.ToLower(info.ETag); len(etag) == 32 && isHex(etag) && !encrypted {
		c.MD5 = etag
	}
	if sum, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256); err == nil && len(sum) == 32 && info.ChecksumMode != "COMPOSITE" {
		c.SHA256 = hex.EncodeToString(sum)
	}
	return c, nil
}
