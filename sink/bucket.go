// Package sink stores write-once objects under keys, durably, and lists and reads them back.
// It never changes or deletes an object in a Bucket, and it knows nothing of what the objects mean.
package sink

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers branch on. Implementations wrap them, so compare with errors.Is.
var (
	// ErrExists says that an object is already stored under the key. Put has changed nothing.
	ErrExists = errors.New("object exists")
	// ErrNotFound says that no object is stored under the key.
	ErrNotFound = errors.New("object not found")
	// ErrInvalidKey says that a key breaks the rules of CheckKey. It is never worth a retry.
	ErrInvalidKey = errors.New("invalid key")
	// ErrDamaged says that a body is not what its hash says. Nothing was stored.
	ErrDamaged = errors.New("damaged")
	// ErrLocked says that another process holds a directory's lock.
	ErrLocked = errors.New("another process uses this directory")
	// ErrMismatch says that the store's answer to an upload tells of other bytes than were sent.
	ErrMismatch = errors.New("the store has other bytes")
	// ErrChanged says that an object is no longer the one that was to be replaced.
	ErrChanged = errors.New("object changed")
)

// Whole is a body whose hash is known. A Bucket stores it only if the bytes have that hash, and fails
// with ErrDamaged otherwise: what has rotted on a disk must not be archived as if it were sound.
type Whole struct {
	Content
	SHA256 string // lower-case hex
	MD5    string // likewise, or empty; it is sent along, and compared with what the store answers
}

// Content is a finished file of known size that is read as often as need be.
type Content interface {
	io.ReadSeeker
	io.ReaderAt
}

// Replacer is a Bucket that can put a better object in the place of another.
type Replacer interface {
	// Replace stores body under key if the object there is still old, as Stat has described it. Otherwise
	// it returns ErrChanged and leaves it alone. Where the store cannot check and store in one step, two
	// writers at the same moment may both succeed; the later one's object stays.
	Replace(ctx context.Context, key string, body io.ReadSeeker, old Object) error
}

// Bucket is a flat, write-once store of objects.
//
// A key is a relative slash-separated path as CheckKey allows it. An object becomes visible whole or
// not at all; once visible it does not change. All methods may be called by several goroutines at
// once, return when ctx ends, and do not retry beyond what one request needs: the caller owns retries,
// because only the caller knows what waits behind it.
//
// There is no Delete: a program that cannot delete cannot destroy an archive, and needs no right to.
type Bucket interface {
	// Put stores everything from the current offset of body to its end under key, if no object is there yet.
	// The content type follows from the key's extension. If an object is there, Put returns ErrExists
	// and leaves it alone. When Put returns nil the object is durable, as far as the store can say.
	// After an error the object may or may not be there (the answer may have been lost on the way);
	// calling Put again is safe. Put does not close body and leaves its offset undefined.
	Put(ctx context.Context, key string, body io.ReadSeeker) error

	// Open reads length bytes of the object from offset; a length below 0 means up to the end.
	// A range that begins at or after the end reads as empty. The reader fails with
	// io.ErrUnexpectedEOF when the store delivers less than it announced. The caller closes it.
	// ErrNotFound says that there is no such object.
	Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes one object, or fails with ErrNotFound.
	Stat(ctx context.Context, key string) (Object, error)

	// List yields the objects whose keys begin with prefix, in ascending byte order of their keys,
	// fetching page after page as the caller goes on. It stops at the first error, which is yielded
	// with a zero Object. A prefix that matches nothing yields nothing.
	List(ctx context.Context, prefix string, o ListOptions) iter.Seq2[Object, error]
}

// ListOptions narrow a listing. The zero value lists everything under the prefix.
type ListOptions struct {
	// After leaves out keys that are not greater than it.
	After string
	// Shallow folds keys that have a "/" after the prefix into one Object for each folder: its Key
	// ends with "/" and its other fields are zero.
	Shallow bool
}

// Object describes a stored object.
type Object struct {
	Key     string    // relative to the bucket's own prefix, "/" at the end only for a folder
	Size    int64     // bytes
	ModTime time.Time // when the store received it
	ETag    string    // as the store gave it, without quotes; may be empty
}
