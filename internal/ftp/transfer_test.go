package ftp

import (
	"strings"
	"testing"
)

func TestParseEPSV(t *testing.T) {
	for in, want := range map[string]int{
		"Entering Extended Passive Mode (|||6446|)":  6446,
		"Entering Extended Passive Mode (|||6446|).": 6446,
		"(!!!1!)":            1,
		"(|||65535|)":        65535,
		"(see) (|||6446|)":   6446,
		"(|||65536|)":        0,
		"(|||0|)":            0,
		"(||||)":             0,
		"(|||)":              0,
		"(|||6446)":          0,
		"(||6446|)":          0,
		"(|||-1|)":           0,
		"(|||+1|)":           0,
		"(|||1":              0,
		"(11164461)":         0, // digits are no delimiter
		"(   6446 )":         0,
		"|||6446|":           0,
		"(|1|::1|6446|)":     0, // as in EPRT: not for EPSV
		"":                   0,
		"(\xff\xff\xff1\xff": 0,
	} {
		port, ok := parseEPSV(in)
		if port != want && ok || ok != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", in, port, ok, want)
		}
	}
}

func TestParsePASV(t *testing.T) {
	for in, want := range map[string]int{
		"Entering Passive Mode (127,0,0,1,4,5)":  4<<8 | 5,
		"Entering Passive Mode (127,0,0,1,4,5).": 4<<8 | 5,
		"Entering Passive Mode. 127,0,0,1,4,5":   4<<8 | 5, // RFC 1123, 4.1.2.6
		"=127,0,0,1,0,21":                        21,
		"Mode 2 (10,0,0,1,255,255)":              65535,
		"(127,0,0,1,0,0)":                        0,
		"(127,0,0,1,256,0)":                      0,
		"(127,0,0,1,4)":                          0,
		"(127,0,0,1,4,5,6)":                      0,
		"(127,0,0,1,,5)":                         0,
		"(,127,0,0,1,4,5":                        4<<8 | 5, // the comma before it is not of the list
		"":                                       0,
	} {
		port, ok := parsePASV(in)
		if port != want && ok || ok != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", in, port, ok, want)
		}
	}
}

func FuzzPassive(f *testing.F) {
	for _, s := range []string{"(|||6446|)", "(127,0,0,1,4,5)", "127,0,0,1,4,5", "(|||65536|)", "1,2,3,4,5,6,7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for name, parse := range map[string]func(string) (int, bool){"EPSV": parseEPSV, "PASV": parsePASV} {
			if port, ok := parse(in); ok && (port < 1 || port > 65535 || !strings.ContainsAny(in, "0123456789")) {
				t.Errorf("%s %q: port %d", name, in, port)
			}
		}
	})
}
