package sink

import "time"

// UploadLimit is how long an upload of so many bytes may take after so many that were cut.
func UploadLimit(size int64, cuts int) time.Duration {
	var p pace
	p.init(Patience{})
	for n := range cuts {
		p.cut(int32(n))
	}
	limit, _ := p.limit(size)
	return limit
}
