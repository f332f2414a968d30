# kill -9 of the server at random milliseconds of every step: tools/kills.py says what must hold. A failure prints its seed.
fresh_namespace kills-test
forget() { for image in $(klynge image ls -o name | grep /kills- || true); do eventually 20 klynge image rm $image; done; }
forget # what a broken off run left
scripts/make-image kills:1 $WORK/kills.tar
python3 tests/e2e/tools/kills.py $NS
forget
