package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ownDirectory makes the data directory, or closes the one that is there to
// all but its owner: keys and the admin socket lie in it. It does so only to a
// directory that is this user's and the node's, since for root --data /var/lib
// would else shut out half the machine.
func ownDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	refuse := func(why string, err error) error {
		return &ConfigError{Field: "data", Reason: fmt.Sprintf("%s has mode %04o, and %s", dir, info.Mode().Perm(), why), Err: err}
	}
	if uid := owner(info); uid != os.Geteuid() {
		return refuse(fmt.Sprintf("belongs to user %d", uid), nil)
	}
	ours, err := ourDirectory(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if !ours || info.Mode()&fs.ModeSticky != 0 {
		return refuse("others keep things there", nil)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return refuse("cannot be closed: "+err.Error(), err)
	}
	return nil
}

// ourDirectory reports whether a node was here before, or else nobody was.
func ourDirectory(dir string) (bool, error) {
	if _, err := os.Stat(filepath.Join(dir, "store")); !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "ca" && e.Name() != "lost+found" {
			return false, err
		}
	}
	return err == nil, err
}
