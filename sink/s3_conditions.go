package sink

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"
)

// probeKey is the object by which a store shows what it can do. Its name is no key, so that nobody takes
// it for a part of the archive, and always the same, so that nothing has to be deleted.
const probeKey = ".kubelogexporter-probe"

// probeText is what is in it, always.
const probeText = "KubeLogExporter stores this object to see whether the store keeps to If-None-Match and If-Match.\n"

// abilities are what a store does with conditions.
type abilities struct {
	create  bool // it refuses to store where something is (If-None-Match: *)
	replace bool // it refuses to replace another object than the one meant (If-Match)
	known   bool // it was tried
}

// conditions remembers what a probe has shown. Some stores ignore conditions and store nevertheless
// (StorageGRID, by its settings), so that only trying shows it.
type conditions struct {
	mu    sync.Mutex
	known bool
	can   abilities
}

// forbidden notes that the probe may not be made, while other objects may be stored.
func (c *conditions) forbidden() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		c.known, c.can = true, abilities{create: true}
	}
}

// conditions says what the store can do, and tries it the first time it answers. An error is worded as
// one of the object that waits for it.
func (s *S3) conditions(ctx context.Context, key string) (abilities, error) {
	c := &s.probed
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return c.can, nil
	}
	can, err := s.probe(ctx, key)
	var e *StoreError
	if errors.As(err, &e) && e.Code == "AccessDenied" {
		return abilities{create: true}, nil // a policy may name what may be stored
	}
	if err != nil {
		return can, err
	}
	c.can, c.known = can, true
	if !can.create {
		s.limited(limitConditions)
	}
	return can, nil
}

// probe stores the probe twice and replaces it under an ETag that it does not have.
func (s *S3) probe(ctx context.Context, key string) (abilities, error) {
	can := abilities{known: true}
	for range 2 {
		err := s.putProbe(ctx, key, func(o *minio.PutObjectOptions) { o.SetMatchETagExcept("*") })
		if errors.Is(err, ErrExists) {
			can.create = true
			break
		}
		if notImplemented(err) {
			break
		}
		if err != nil {
			return can, err
		}
	}
	err := s.putProbe(ctx, key, func(o *minio.PutObjectOptions) { o.SetMatchETag(strings.Repeat("0", 32)) })
	if errors.Is(err, ErrExists) || errors.Is(err, ErrNotFound) {
		can.replace, err = true, nil
	}
	if notImplemented(err) {
		err = nil
	}
	return can, err
}

func (s *S3) putProbe(ctx context.Context, key string, change func(*minio.PutObjectOptions)) error {
	sums, err := digest(strings.NewReader(probeText))
	if err != nil {
		return err
	}
	o := minio.PutObjectOptions{ContentType: "text/plain; charset=utf-8", DisableContentSha256: true, DisableMultipart: true}
	change(&o)
	return s.send(ctx, key, s.prefix+probeKey, strings.NewReader(probeText), 0, sums, o)
}

// CheckWrite tries what the uploads will need: whether the store takes an object with the options, and
// what it does with conditions. It stores the object .kubelogexporter-probe under the prefix.
func (s *S3) CheckWrite(ctx context.Context) error {
	if _, err := s.conditions(ctx, probeKey); err != nil {
		return err
	}
	if s.put.lock != "" {
		_, _, _, _, err := s.client.GetObjectLockConfig(ctx, s.bucket)
		var e *StoreError
		if err = s.failed("check", "", err); errors.As(err, &e) && e.Status == http.StatusNotFound {
			return err
		}
	}
	if !s.put.special() {
		return nil
	}
	var tagged bool
	apply := func(o *minio.PutObjectOptions) {
		s.put.apply(o)
		tagged = len(o.UserTags) > 0
	}
	err := s.putProbe(ctx, probeKey, apply)
	if notImplemented(err) && tagged {
		err = s.putProbe(ctx, probeKey, func(o *minio.PutObjectOptions) {
			apply(o)
			o.UserTags = nil
		})
		if err == nil {
			s.dropTags()
		}
	}
	return err
}

// dropTags goes on without tags, because the store has refused an object with tags and taken it without. Nothing
// else is ever dropped: who asks for encryption, a lock or a class would rather wait than do without.
func (s *S3) dropTags() {
	if s.put.noTags.CompareAndSwap(false, true) {
		s.limited(limitTags)
	}
}

const (
	limitConditions = "it does not keep to If-None-Match: each upload looks first"
	limitTags       = "it takes no tags: objects are stored without"
)

// Limits says in words what the store cannot do, after a first upload or CheckWrite.
func (s *S3) Limits() []string {
	s.probed.mu.Lock()
	defer s.probed.mu.Unlock()
	var limits []string
	if s.probed.known && !s.probed.can.create {
		limits = append(limits, limitConditions)
	}
	if s.put.noTags.Load() {
		limits = append(limits, limitTags)
	}
	return limits
}
