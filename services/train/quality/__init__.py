"""How good a finished run is: tables, intervals, groups, calibration, and a page to read them on."""
