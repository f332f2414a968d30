#!/bin/sh
# The backend of the sample: the time, and which pod tells it.
echo "Content-Type: text/plain"
echo
echo "it is $(date -u +%H:%M:%S) UTC at $(hostname)"
