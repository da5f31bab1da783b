package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// Follow tells of every entry that is written below dir, as it is written, until
// ctx ends; then of what is left, and returns. The directory is made if it is
// not there. Lines that do not parse are left to Read.
func Follow(ctx context.Context, dir string, tell func(Entry)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	read := map[string]int64{} // file -> bytes told of
	for {
		files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		for _, file := range files {
			if read[file], err = tellFrom(file, read[file], tell); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		for written := false; !written; {
			select {
			case e := <-w.Events:
				written = strings.HasSuffix(e.Name, ".jsonl")
			case err := <-w.Errors:
				return fmt.Errorf("journal: %w", err)
			case <-ctx.Done():
				written = true // what came last
			}
		}
	}
}

// tellFrom reads whole lines behind an offset, and returns the one behind them.
func tellFrom(file string, offset int64, tell func(Entry)) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return offset, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return offset, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return offset, err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	for line := range bytes.Lines(data) {
		var e Entry
		if json.Unmarshal(line, &e) == nil {
			tell(e)
		}
	}
	return offset + int64(len(data)), nil
}
