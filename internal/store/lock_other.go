//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package store

import (
	"errors"
	"os"
)

// lockFile refuses: a node needs a lock that ends with its process, and only
// the unix one has been tried.
func lockFile(string) (*os.File, error) {
	return nil, errors.New("a node runs on unix systems only")
}
