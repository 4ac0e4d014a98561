package hostile

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
)

const getRoute = "GET " + grid.RoutePath + " HTTP/1.1"

// Who is refused is rid of its connection, on a server without a single timeout.
func TestARefusalEndsItsConnection(t *testing.T) {
	refuseAll := func(o *grid.ManagerOptions) { o.AuthRequest = func(*http.Request) error { return errors.New("no") } }
	full := func(o *grid.ManagerOptions) { o.Limits.MaxHandshakes = 1 }
	for _, test := range []struct {
		name, request string
		edit          func(*grid.ManagerOptions)
		status        int
	}{
		{"403", testkit.RawUpgrade(getRoute), refuseAll, 403},
		{"403 to a body that does not come", testkit.RawUpgrade("POST "+grid.RoutePath+" HTTP/1.1", "Content-Length: 5"), refuseAll, 403},
		{"403 to a long body that does not come", testkit.RawUpgrade("POST "+grid.RoutePath+" HTTP/1.1", "Content-Length: 1000000000"), refuseAll, 403},
		{"403 to chunks that do not come", testkit.RawUpgrade("POST "+grid.RoutePath+" HTTP/1.1", "Transfer-Encoding: chunked"), refuseAll, 403},
		{"403 to who waits to be asked for a body", testkit.RawUpgrade("POST "+grid.RoutePath+" HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"), refuseAll, 403},
		{"426", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Version: 8"), nil, 426},
		{"426 to a body that does not come", testkit.RawUpgrade("POST "+grid.RoutePath+" HTTP/1.1", "Content-Length: 5"), nil, 426},
		{"400", testkit.RawUpgrade(getRoute, "Content-Length: 5"), nil, 400},
		{"503", testkit.RawUpgrade(getRoute), full, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startOnPipe(t, test.edit)
				if test.status == 503 { // one that says nothing more has the only place
					knock := n.dial(t)
					go knock.Write([]byte(testkit.RawUpgrade(getRoute)))
					if resp, err := http.ReadResponse(bufio.NewReader(knock), nil); err != nil || resp.StatusCode != 101 {
						t.Fatalf("%v, %v", resp, err)
					}
				}
				conn := n.dial(t)
				began := time.Now()
				go conn.Write([]byte(test.request))
				br := bufio.NewReader(conn)
				resp, err := http.ReadResponse(br, nil)
				if err != nil || resp.StatusCode != test.status || time.Since(began) > 0 {
					t.Fatalf("%v, %v, after %v", resp, err, time.Since(began))
				}
				io.Copy(io.Discard, resp.Body)
				if _, err := br.ReadByte(); err == nil {
					t.Error("more than an answer")
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("its connection lives for %v", took)
				}
			})
		})
	}
}
