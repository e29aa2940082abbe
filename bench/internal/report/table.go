package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A Table is printed in Markdown, with columns that also line up as text.
type Table struct {
	title string
	notes string
	rows  [][]string // the first one is the head
}

// NewTable returns a table without rows. Notes, if not empty, stand above it.
func NewTable(title, notes string, head ...string) *Table {
	return &Table{title, notes, [][]string{head}}
}

// Add adds a row, with a cell for each of the head.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes the table to w.
func (t *Table) Print(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	fmt.Fprintf(w, "\n### %s\n\n", t.title)
	if t.notes != "" {
		fmt.Fprintf(w, "%s\n\n", t.notes)
	}
	for i, row := range t.rows {
		printRow(w, row, widths)
		if i == 0 {
			rule := make([]string, len(widths))
			for j, width := range widths {
				rule[j] = strings.Repeat("-", width-1) + ":"
			}
			rule[0] = strings.Repeat("-", widths[0])
			printRow(w, rule, widths)
		}
	}
}

// printRow has names on the left of their column and figures on the right.
func printRow(w io.Writer, row []string, widths []int) {
	for i, cell := range row {
		gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			fmt.Fprintf(w, "| %s%s |", cell, gap)
		} else {
			fmt.Fprintf(w, " %s%s |", gap, cell)
		}
	}
	fmt.Fprintln(w)
}
