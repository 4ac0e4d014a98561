package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
)

// readPrivate reads a file that nobody else should know. It refuses one that others may change, and
// warns of one that others may read, as files that an orchestrator mounts often are.
func readPrivate(flagName, name string) (b []byte, warning string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, "", cannotStart("cannot read %s: %v", flagName, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", cannotStart("cannot read %s: %v", flagName, err)
	}
	if info.Mode().IsRegular() && runtime.GOOS != "windows" { // which has no such bits
		switch perm := info.Mode().Perm(); {
		case perm&0o022 != 0:
			return nil, "", cannotStart("%s %s can be changed by others (mode %04o); run: chmod 600 %s", flagName, name, perm, name)
		case perm&0o044 != 0:
			warning = fmt.Sprintf("%s %s can be read by others (mode %04o); run: chmod 600 %s", flagName, name, perm, name)
		}
	}
	if b, err = io.ReadAll(io.LimitReader(f, maxPrivate+1)); err != nil {
		return nil, "", cannotStart("cannot read %s: %v", flagName, err)
	}
	if len(b) > maxPrivate {
		return nil, "", cannotStart("%s %s has more than %d bytes", flagName, name, maxPrivate)
	}
	return b, warning, nil
}

// maxPrivate is the size of a file with a secret or a key, in bytes, at the most.
const maxPrivate = 1 << 20
