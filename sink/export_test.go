package sink

import "time"

// SetStallTimeout shortens the time after which a request without movement is cut.
func (s *S3) SetStallTimeout(d time.Duration) { s.stall.limit.Store(int64(d)) }
