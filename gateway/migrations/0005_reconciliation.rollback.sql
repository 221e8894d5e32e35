DROP TABLE reconciliation_settlements;
DROP TABLE reconciliation_breaks;
DROP SEQUENCE reconciliation_break_numbers;
DROP TABLE reconciliation_lines;
DROP TABLE reconciliation_imports;
