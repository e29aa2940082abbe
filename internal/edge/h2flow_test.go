package edge

import (
	"io"
	"testing"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestWindowsHaveBounds: a window that would grow beyond them is not heard of
// by the standard library, however its bytes come; one that is used may grow
// for ever.
func TestWindowsHaveBounds(t *testing.T) {
	update := func(stream, by uint32) []byte { return appendFrame(nil, frameWindow, 0, stream, number(by)) }
	initial := func(n uint32) []byte { return appendFrame(nil, frameSettings, 0, 0, setting(settingWindow, n)) }
	const most = 1<<31 - 1
	for name, test := range map[string]struct {
		said [][]byte
		used int // bytes, before the last is said
		want error
	}{
		"all that is left":     {[][]byte{update(1, most-65535)}, 0, nil},
		"one more":             {[][]byte{update(1, most-65535+1)}, 0, errFlow},
		"in two":               {[][]byte{update(1, most-65535), update(1, 1)}, 0, errFlow},
		"what was used":        {[][]byte{update(1, most-65535), update(1, 1<<20)}, 1 << 20, nil},
		"more than was used":   {[][]byte{update(1, most-65535), update(1, 1<<20+1)}, 1 << 20, errFlow},
		"beyond a large one":   {[][]byte{initial(most), update(1, 1)}, 0, errFlow},
		"beyond a small one":   {[][]byte{initial(0), update(1, most)}, 0, nil},
		"of the connection":    {[][]byte{update(0, most)}, 0, nil}, // which the standard library can tell
		"of a stream unknown":  {[][]byte{update(9, most), update(9, most)}, 0, nil},
		"of one that is reset": {[][]byte{appendFrame(nil, frameReset, 0, 1, number(0)), update(1, most)}, 0, nil},
	} {
		for _, size := range []int{1, 5, 100} { // of a Read
			ours, theirs := memnet.Pipe()
			g := newFlowGuard(ours)
			io.WriteString(g, preface)
			g.Write(appendFrame(nil, frameHeaders, flagEndHeaders, 1, []byte("\x82")))
			var err error
			for i, frame := range test.said {
				if i == len(test.said)-1 && test.used > 0 {
					g.saidLocked(&frameHead{kind: frameData, stream: 1, size: test.used}, nil)
				}
				theirs.Write(frame)
				for n := 0; n < len(frame) && err == nil; {
					var m int
					m, err = g.Read(make([]byte, min(size, len(frame)-n)))
					n += m
				}
			}
			if err != test.want {
				t.Errorf("%s, %d bytes at once: got %v; want %v", name, size, err, test.want)
			}
			ours.Close()
			theirs.Close()
		}
	}
}
