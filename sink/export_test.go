package sink

import "time"

// SetStallTimeout shortens the time after which a request without movement is cut.
func (s *S3) SetStallTimeout(d time.Duration) { s.stall.limit.Store(int64(d)) }

// UploadLimit is how long an upload of so many bytes may take after so many that were cut.
func UploadLimit(size int64, cuts int) time.Duration {
	var p pace
	for range cuts {
		p.learn(true)
	}
	return p.limit(size)
}
