package spec

import (
	"regexp"
	"strings"
)

// testify's layout: a label and its text, further lines indented to the text.
var (
	labelled  = regexp.MustCompile(`^\t(Error Trace|Error|Test|Messages): *\t(.*)$`)
	continued = regexp.MustCompile(`^\t +\t(.*)$`)
)

// plain is the message of a failed assertion. Of testify's it takes the message
// and the error and leaves the trace and the test's name out, so that Kills is
// never matched by the path of a file.
func plain(message string) string {
	parts := map[string][]string{}
	label := ""
	for line := range strings.Lines(message) {
		line = strings.TrimSuffix(line, "\n")
		if m := labelled.FindStringSubmatch(line); m != nil {
			label = m[1]
			parts[label] = append(parts[label], m[2])
		} else if m := continued.FindStringSubmatch(line); m != nil && label != "" {
			parts[label] = append(parts[label], m[1])
		}
	}
	if len(parts["Error"]) == 0 || len(parts["Error Trace"]) == 0 {
		return strings.TrimSpace(message)
	}
	text := strings.TrimSpace(strings.Join(parts["Error"], "\n"))
	if said := strings.TrimSpace(strings.Join(parts["Messages"], "\n")); said != "" {
		return said + ": " + text
	}
	return text
}

// headline is a message on one line of bounded length.
func headline(message string) string {
	const longest = 200 // letters
	letters := []rune(strings.Join(strings.Fields(message), " "))
	if len(letters) > longest {
		return string(letters[:longest]) + " …"
	}
	return string(letters)
}
