package probe

import (
	"bytes"
	"context"
	"io"
)

// conversation is a command of a pod's probe while it runs. The one who asks ends
// it, by hangUp, when all is read: an API server may lose the last lines of a
// command that ends by itself.
type conversation struct {
	lines  *io.PipeReader // what it says; at its end the error of the command, or io.EOF
	stdin  *io.PipeWriter // stays open
	cancel context.CancelFunc
}

// talk runs the pod's probe with a command, which is told first.
func (p *Pod) talk(ctx context.Context, first []byte, command ...string) *conversation {
	ctx, cancel := context.WithCancel(ctx)
	rest, stdin := io.Pipe()
	lines, out := io.Pipe()
	go func() {
		err := p.exec(ctx, io.MultiReader(bytes.NewReader(first), rest), out, command...)
		_ = out.CloseWithError(err) // nil is the end
		_ = rest.Close()            // lets go of who writes it
	}()
	return &conversation{lines, stdin, cancel}
}

func (c *conversation) hangUp() {
	c.cancel()
	_ = c.stdin.Close()
	_ = c.lines.Close()
}

// exec runs the pod's probe with a command. in may be nil; a command that reads
// it sees its end when ctx ends or the connection breaks.
func (p *Pod) exec(ctx context.Context, in io.Reader, out io.Writer, command ...string) error {
	return p.env.Exec(ctx, p.Namespace, p.Name, container, in, out, append([]string{"/probe"}, command...)...)
}
