// Package redact blanks secrets in what is written down: journals, and what is
// dumped of a cluster. It knows them by their looks, and by their values where it
// was told of them.
package redact

import (
	"bytes"
	"encoding/json"
	"regexp"
)

const blank = "[redacted]"

// secretKey is the name of a member whose value is a secret; a reference to one,
// such as secretName, is not.
var secretKey = regexp.MustCompile(`(?i)(?:passwd|password|passphrase|token|secret|private[-_]?key|api[-_]?key|secret[-_]?access[-_]?key|^authorization|cookie)$`)

// secretTexts are what secrets look like inside a text.
var secretTexts = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`), blank},
	{regexp.MustCompile(`LS0tLS1CRUdJTi(?:BQUklWQVRF|BSU0EgUFJJVkFURSBLRVk|BFQyBQUklWQVRF|BPUEVOU1NIIFBSSVZBVEUg)[A-Za-z0-9+/=]*`), blank}, // the same in base64
	{regexp.MustCompile(`(?i)(\bauthorization\W{1,4}(?:basic|bearer)\s+)[A-Za-z0-9._~+/=-]+`), "${1}" + blank},
	{regexp.MustCompile(`(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}`), "${1}" + blank}, // shorter is a word, as in "invalid bearer token"
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), blank},
	{regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`), "${1}" + blank + "@"},
	{regexp.MustCompile(`(://)[^/\s:@]+@`), "${1}" + blank + "@"},
	{regexp.MustCompile(`(?i)((?:passwd|password|passphrase|token|secret|private[-_]?key|api[-_]?key|secret[-_]?access[-_]?key)\\*["']?\s*[:=]\s*)(?:\\*"[^"\\]*|'[^']*|[^\s"',;&\\]+)`), "${1}" + blank},
}

// JSON blanks secrets in a line of compact JSON, which stays JSON with its
// members in the same order.
func JSON(line []byte) []byte {
	var out bytes.Buffer
	ofSecret := bytes.Contains(line, []byte(`"kind":"Secret"`))
	named := "" // of the member before: {"name":"DB_PASSWORD","value":"…"}
	for len(line) > 0 {
		start := bytes.IndexByte(line, '"')
		if start < 0 {
			break
		}
		out.Write(line[:start])
		literal, rest := take(line[start:])
		if len(rest) == 0 || rest[0] != ':' {
			out.Write(redactString(literal))
			line = rest
			continue
		}
		out.Write(literal)
		out.WriteByte(':')
		line = rest[1:]
		var key string
		if json.Unmarshal(literal, &key) != nil {
			continue
		}
		value, behind := take(line)
		isReference := bytes.HasPrefix(value, []byte("{")) && bytes.Contains(value, []byte(`"secretName":`)) // a volume's
		switch {
		case ofSecret && (key == "data" || key == "stringData"),
			key == "value" && secretKey.MatchString(named),
			secretKey.MatchString(key) && !isReference:
			if line = behind; !isPlain(value) {
				value = []byte(`"` + blank + `"`)
			}
			out.Write(value)
		}
		named = ""
		if key == "name" {
			_ = json.Unmarshal(value, &named) // else it is no name
		}
	}
	out.Write(line)
	return out.Bytes()
}

// isPlain: neither true nor false nor null is a secret, as of
// automountServiceAccountToken.
func isPlain(value []byte) bool {
	switch string(bytes.TrimSpace(value)) {
	case "true", "false", "null":
		return true
	}
	return false
}

// take splits the first JSON value off. What is no JSON is taken whole, so that
// nothing is let through unseen.
func take(data []byte) (value, rest []byte) {
	var raw json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(data))
	if decoder.Decode(&raw) != nil {
		return data, nil
	}
	end := decoder.InputOffset()
	return data[:end], data[end:]
}

func redactString(literal []byte) []byte {
	var text string
	if json.Unmarshal(literal, &text) != nil {
		return []byte(`"` + blank + `"`)
	}
	redacted := Text(text)
	if redacted == text {
		return literal
	}
	clean, err := json.Marshal(redacted)
	if err != nil {
		return []byte(`"` + blank + `"`)
	}
	return clean
}

// Text blanks secrets in a text of any form, such as a log.
func Text(text string) string {
	text = known.blank(text)
	for _, s := range secretTexts {
		text = s.pattern.ReplaceAllString(text, s.with)
	}
	return text
}
