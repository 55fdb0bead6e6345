package sink

import "context"

// Checksums are what a store tells of an object without sending it.
type Checksums struct {
	Object
	// MD5 and SHA256 are of the whole object, in lower-case hex. They are empty if the store does not
	// tell them. A store may remember them from the upload: that they are right does not prove that the
	// bytes still are.
	MD5, SHA256 string
}

// Checksummer is a Bucket that may know checksums of its objects. Checksums fails as Stat does.
type Checksummer interface {
	Checksums(ctx context.Context, key string) (Checksums, error)
}
