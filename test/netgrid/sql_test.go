package netgrid

import (
	"context"
	"database/sql"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gridmesh/grid/contrib/netgrid"
	"github.com/gridmesh/grid/internal/testkit"
)

// TestSQL uses database/sql, with the driver pgx and a dialer of its own, to reach a PostgreSQL that
// only the other node can reach, by a socket of Unix. That node forwards.
func TestSQL(t *testing.T) {
	socket := startPostgres(t)
	l, dial := listen(t, "postgres")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go forward(t, c.(*netgrid.Conn), socket)
		}
	}()
	config, err := pgx.ParseConfig("host=other.example user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	db := stdlib.OpenDB(*config)
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "create table blobs (id int primary key, body bytea)"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := noise(i * 100 << 10)
			if _, err := db.ExecContext(t.Context(), "insert into blobs values ($1, $2)", i, body); err != nil {
				t.Error(err)
				return
			}
			var got []byte
			err := db.QueryRowContext(t.Context(), "select body from blobs where id = $1", i).Scan(&got)
			if err != nil || string(got) != string(body) {
				t.Errorf("got %d of %d bytes, %v", len(got), len(body), err)
			}
		})
	}
	wg.Wait()
	rollback(t, db)
	canceled(t, db)
	var n int
	if err := db.QueryRowContext(t.Context(), "select count(*) from blobs").Scan(&n); err != nil || n != 8 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// rollback gives a transaction up.
func rollback(t *testing.T, db *sql.DB) {
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := tx.Exec("delete from blobs"); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
}

// canceled gives a query up, which the driver does by a deadline on its connection.
func canceled(t *testing.T, db *sql.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	rows, err := db.QueryContext(ctx, "select generate_series(1, 1000000000)")
	if err != nil {
		t.Error(err)
		cancel()
		return
	}
	defer rows.Close()
	if !rows.Next() {
		t.Error(rows.Err())
	}
	cancel()
	for rows.Next() {
	}
	if rows.Err() == nil {
		t.Error("the query was not canceled")
	}
}

// forward joins a Conn and a socket.
func forward(t *testing.T, c *netgrid.Conn, socket string) {
	defer c.Close()
	s, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(c, s)
}

// startPostgres runs a PostgreSQL until the test ends, and returns its socket. It installs Debian's
// package if there is none.
func startPostgres(t *testing.T) (socket string) {
	t.Helper()
	bin := postgresBin()
	if bin == "" {
		testkit.Install("initdb", "postgresql")
		bin = postgresBin()
	}
	if bin == "" {
		testkit.Program(t, "initdb", "postgresql") // which skips the test
	}
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // whose folder has a long name, and the path of a socket at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = dir
		cmd.SysProcAttr = asPostgres(t, dir)
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	var log strings.Builder
	server := run("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt) // a fast shutdown
		_ = server.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for ready := false; !ready; {
		ready = run("pg_isready", "-q", "-h", dir, "-t", "1").Run() == nil
		if server.ProcessState != nil || t.Context().Err() != nil {
			t.Fatal("postgres has ended")
		}
	}
	return filepath.Join(dir, ".s.PGSQL.5432")
}

// postgresBin returns the folder with PostgreSQL's programs, empty if there is none.
func postgresBin() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return ""
	}
	return filepath.Dir(path)
}

// asPostgres lets a program run as the user postgres, for PostgreSQL does not run as root.
func asPostgres(t *testing.T, dir string) *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
