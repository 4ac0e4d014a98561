package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gridmesh/grid/debugz"
)

const (
	answerTime = 5 * time.Second
	maxAnswer  = 64 << 20 // bytes
)

// Page is the status page of a node.
type Page struct {
	url    *url.URL
	single bool // asks for nothing of the other nodes
	found  bool // url is that of the page, with a slash at its end
	client http.Client
}

// NewPage returns the page at an address, which may lack its scheme. With single only the node itself is
// asked, else also all others that its page knows.
func NewPage(address string, single bool) (*Page, error) {
	full := address
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the address of a status page; try http://localhost:8080/", address)
	}
	u.RawQuery, u.Fragment = "", ""
	u.Path = strings.TrimSuffix(u.Path, "status.json")
	return &Page{url: u, single: single, client: http.Client{Timeout: answerTime}}, nil
}

func (p *Page) String() string { return p.url.Redacted() }

// status asks for what the page shows.
func (p *Page) status(ctx context.Context) (*debugz.Status, error) {
	if !p.found { // it may be elsewhere
		resp, err := p.get(ctx, p.url)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		user := p.url.User
		p.url, p.found = resp.Request.URL, true
		p.url.User = user
		if !strings.HasSuffix(p.url.Path, "/") {
			p.url.Path += "/"
		}
	}
	u := p.url.JoinPath("status.json")
	if !p.single {
		u.RawQuery = "all=1"
	}
	resp, err := p.get(ctx, u)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	s := new(debugz.Status)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(s); err != nil || s.Node == "" {
		return nil, fmt.Errorf("what answers at %s is not the status page of a node", p)
	}
	return s, nil
}

// get returns an answer that is none of an error.
func (p *Page) get(ctx context.Context, u *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(r)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the address, which is named below
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", answerTime)
		}
		return nil, fmt.Errorf("cannot ask the status page at %s: %w", p, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	text := strings.TrimSpace(string(why))
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || text == "" {
		text = http.StatusText(resp.StatusCode)
	}
	return nil, fmt.Errorf("the status page at %s answers with %d: %s", p, resp.StatusCode, text)
}
