package config

// Origin returns where the value at a path comes from, such as sink.s3.bucket or exports[0].capture.
func (c *Config) Origin(path string) string { return c.origins[path].String() }
