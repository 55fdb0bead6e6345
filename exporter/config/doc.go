// Package config reads the configuration file and names every mistake in it, with its place.
// It never talks to a cluster or a bucket, and it never holds a secret: secrets stay in files and in the environment.
package config
