package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"
	jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl_-"
)

func TestRedactKeys(t *testing.T) {
	for in, want := range map[string]string{
		`{"password":"hunter2"}`:                           `{"password":"[redacted]"}`,
		`{"dbPassword":"hunter2","user":"jo"}`:             `{"dbPassword":"[redacted]","user":"jo"}`,
		`{"b":1,"TOKEN":"x","a":2}`:                        `{"b":1,"TOKEN":"[redacted]","a":2}`,
		`{"passwd":"","passphrase":"x"}`:                   `{"passwd":"[redacted]","passphrase":"[redacted]"}`,
		`{"apiKey":"x","api_key":"x","api-key":"x"}`:       `{"apiKey":"[redacted]","api_key":"[redacted]","api-key":"[redacted]"}`,
		`{"privateKey":"x","private-key":["x","y"]}`:       `{"privateKey":"[redacted]","private-key":"[redacted]"}`,
		`{"clientSecret":{"a":{"b":"x"}},"then":"kept"}`:   `{"clientSecret":"[redacted]","then":"kept"}`,
		`[{"token":"x"},{"token":"y"}]`:                    `[{"token":"[redacted]"},{"token":"[redacted]"}]`,
		`{"a":{"token":"x","z":[1,{"secret":"y"}]},"b":3}`: `{"a":{"token":"[redacted]","z":[1,{"secret":"[redacted]"}]},"b":3}`,
		`{"pass\u0077ord":"escaped","é\"token":"x"}`:       `{"pass\u0077ord":"[redacted]","é\"token":"[redacted]"}`,
		`{"token":"a \"quoted\" one","after":"kept"}`:      `{"token":"[redacted]","after":"kept"}`,
		`[{"name":"DB_PASSWORD","value":"x"}]`:             `[{"name":"DB_PASSWORD","value":"[redacted]"}]`,
		`[{"name":"DB_USER","value":"jo"}]`:                `[{"name":"DB_USER","value":"jo"}]`,
		`{"kind":"Secret","data":{"a":"x"},"type":"t"}`:    `{"kind":"Secret","data":"[redacted]","type":"t"}`,
		`{"stringData":{"a":"x"},"kind":"Secret"}`:         `{"stringData":"[redacted]","kind":"Secret"}`,
		`{"kind":"ConfigMap","data":{"a":"x"}}`:            `{"kind":"ConfigMap","data":{"a":"x"}}`,
		`{"Authorization":["Basic x"],"Set-Cookie":["y"]}`: `{"Authorization":"[redacted]","Set-Cookie":"[redacted]"}`,
		`{"secret":{"secretName":"tls","optional":true}}`:  `{"secret":{"secretName":"tls","optional":true}}`,
	} {
		t.Run(in, func(t *testing.T) { require.Equal(t, want, string(JSON([]byte(in)))) })
	}
}

func TestRedactTexts(t *testing.T) {
	for text, want := range map[string]string{
		"Authorization: Bearer abc.def-ghi":                                "Authorization: Bearer [redacted]",
		"sent bearer  c2VjcmV0LXRva2Vu==, got 401":                         "sent bearer  [redacted], got 401",
		"Authorization: Basic dXNlcjpwYXNz":                                "Authorization: Basic [redacted]",
		"the key\n" + pem + "\nand more":                                   "the key\n[redacted]\nand more",
		"cut: -----BEGIN PRIVATE KEY-----\nMIIEow":                         "cut: [redacted]",
		"two " + pem + " and " + pem + " keys":                             "two [redacted] and [redacted] keys",
		"a cookie of " + jwt + " here":                                     "a cookie of [redacted] here",
		"postgres://doc:hunter2@db:5432/doc?sslmode=off":                   "postgres://doc:[redacted]@db:5432/doc?sslmode=off",
		"https://ghp_x@host/path":                                          "https://[redacted]@host/path",
		"redis://:hunter2@redis:6379":                                      "redis://:[redacted]@redis:6379",
		"aws_access_key_id=AKIA1 aws_secret_access_key=x/y":                "aws_access_key_id=AKIA1 aws_secret_access_key=[redacted]",
		"key " + base64.StdEncoding.EncodeToString([]byte(pem)) + " of it": "key [redacted] of it",
		"key " + base64.StdEncoding.EncodeToString([]byte("-----BEGIN EC PRIVATE KEY-----\nMIIE")) + " of it":      "key [redacted] of it",
		"key " + base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\nMIIE")) + " of it":         "key [redacted] of it",
		"key " + base64.StdEncoding.EncodeToString([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl")) + " of it": "key [redacted] of it",
		"cert LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t":                                                                "cert LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t",
		"password=hunter2 user=jo":                          "password=[redacted] user=jo",
		"PGPASSWORD='hun ter2' psql":                        "PGPASSWORD=[redacted]' psql",
		"DB_PASSWORD: hunter2\nDB_USER: jo":                 "DB_PASSWORD: [redacted]\nDB_USER: jo",
		`{"password":"hunter2","user":"jo"}`:                `{"password":[redacted]","user":"jo"}`,
		`said {\"token\":\"abc\"} twice`:                    `said {\"token\":[redacted]\"} twice`,
		"-profile=kind --token=abc --api-key xyz":           "-profile=kind --token=[redacted] --api-key xyz",
		"https://host/path?user=jo&token=abc&then=kept#end": "https://host/path?user=jo&token=[redacted]&then=kept#end",
	} {
		t.Run(text, func(t *testing.T) { require.Equal(t, want, roundTrip(t, text)) })
	}
}

// roundTrip has a text redacted as part of a line of the journal.
func roundTrip(t *testing.T, text string) string {
	t.Helper()
	line, err := json.Marshal(map[string]any{"after": "kept", "before": 1, "text": text})
	require.NoError(t, err)
	var out struct {
		After  string
		Before int
		Text   string
	}
	require.NoError(t, json.Unmarshal(JSON(line), &out))
	require.Equal(t, "kept", out.After)
	require.Equal(t, 1, out.Before)
	return out.Text
}

// Evidence must not lose what is no secret.
func TestNothingHarmlessIsBlanked(t *testing.T) {
	for _, line := range []string{
		`{}`, `[]`, `null`, `""`, `"a"`, `1`, `[true,false,null,-1.5e3]`,
		`{"a":"\u003cb\u003e \\ \" \u2028","b":{"c":[]}}`,
		`{"secretName":"tls","tokenReview":{"user":"jo"},"imagePullSecrets":[{"name":"regcred"}],"secretKeyRef":{"name":"db","key":"url"}}`,
		`{"passwordPolicy":"strict","tokens":12,"keys":["a"],"publicKey":"MFkw"}`,
		`{"kind":"Secret","metadata":{"name":"db-password"}}`,
		`{"automountServiceAccountToken":false}`,
		`{"text":"secret \"db\" not found"}`,
		`{"text":"the secrets of default: 3; tokens: 12"}`,
		`{"text":"the Secret default/db has no key password"}`,
		`{"text":"Pod denied: [must-not-mount-token] automounting is off"}`,
		`{"text":"GET https://10.0.0.1:6443/api/v1/namespaces/default/pods: 403 for user@example.com"}`,
		`{"text":"image registry.example.com:5000/app@sha256:91c0de"}`,
		`{"text":"spiffe://cluster.local/ns/default/sa/frontend"}`,
		`{"text":"401 Unauthorized: invalid bearer token"}`,
		`{"text":"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"}`,
		`{"text":"eyJ is how it begins"}`,
	} {
		t.Run(line, func(t *testing.T) { require.Equal(t, line, string(JSON([]byte(line)))) })
	}
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"password":"x","b":[1,{"token":{"c":null}}],"d":"Bearer abc"}`,
		`{"a":"` + strings.ReplaceAll(pem, "\n", `\n`) + `"}`, `["` + jwt + `","http://u:p@h"]`,
		`{"\"token":1,"secret":"\\\"","x":"password=\\\"a\\\""}`, `"\ud800"`, `{"":{"":""}}`, `"`, `{"a":`, "\xff\"\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var compact bytes.Buffer
		if json.Compact(&compact, in) != nil {
			JSON(in) // it only must not panic
			return
		}
		line := compact.Bytes()
		out := JSON(bytes.Clone(line))
		if !json.Valid(out) {
			t.Fatalf("no JSON any more:\n%s\n%s", line, out)
		}
		before, after := skeleton(t, line), skeleton(t, out)
		if before != after {
			t.Fatalf("not of the same shape:\n%s\n%s", before, after)
		}
	})
}

// skeleton is a value's members in their order and what kinds of value they
// have, without what stands behind a secret's name.
func skeleton(t *testing.T, data []byte) string {
	t.Helper()
	data = bytes.TrimSpace(data)
	var out strings.Builder
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value func()
	token := func() json.Token {
		tok, err := d.Token()
		require.NoError(t, err)
		return tok
	}
	value = func() {
		switch tok := token().(type) {
		case json.Delim:
			out.WriteString(tok.String())
			for d.More() {
				if tok == '{' {
					key := token().(string)
					out.WriteString(key + ":")
					if secretKey.MatchString(key) {
						var hidden any
						require.NoError(t, d.Decode(&hidden))
						continue
					}
				}
				value()
				out.WriteByte(',')
			}
			out.WriteString(token().(json.Delim).String())
		case string:
			out.WriteString(`""`)
		default:
			raw, err := json.Marshal(tok)
			require.NoError(t, err)
			out.Write(raw)
		}
	}
	value()
	return out.String()
}
