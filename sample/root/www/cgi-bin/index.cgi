#!/bin/sh
# One page of the sample: which pod answers, and what the backend behind its Service says.
echo "Content-Type: text/plain"
echo
echo "Hello from $(hostname)."
echo "The backend says: $(wget -q -O - http://clock.sample/cgi-bin/clock.cgi)"
