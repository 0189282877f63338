#!/bin/sh
# What S3's command-line tools do with a bucket of their own: `s3_tools.sh TOOL FOLDER PYTHON_BIN`.
# The environment is what `boira env` prints. Ends with an error at the first thing that isn't right.
set -eu
tool=$1 folder=$2 bin=$3
host=${AWS_ENDPOINT_URL#http://}
# What is mounted is seen by nobody else, and gone with the last of these processes.
if [ "$tool" = mounts ] && [ -z "${APART:-}" ]; then
    APART=1 exec unshare --mount sh "$0" "$@"
fi
bucket="tools-$tool"
cd "$folder"
mkdir -p tree/sub
head -c 30000000 /dev/urandom >tree/big
head -c 5000 /dev/urandom >"tree/sub/a file+ü"
echo old >tree/changes

same() {
    cmp "$1" "$2" || { echo "$1 and $2 differ" >&2; exit 1; }
}

fails() {
    if "$@" >refused.txt 2>&1; then echo "this should fail: $*" >&2; exit 1; fi
}

# The AWS CLI, as the function aws.
aws_tour() {
    aws s3 mb "s3://$bucket"
    aws s3 sync tree "s3://$bucket/tree" --no-progress
    echo new, and longer >tree/changes
    aws s3 sync tree "s3://$bucket/tree" --no-progress
    aws s3 sync "s3://$bucket/tree" back --no-progress
    diff -r tree back
    aws s3 cp "s3://$bucket/tree/changes" - >changes
    same changes tree/changes
    aws s3 cp "s3://$bucket/tree/big" "s3://$bucket/copied" --no-progress
    aws s3 mv "s3://$bucket/copied" "s3://$bucket/moved" --no-progress
    aws s3api get-object --bucket "$bucket" --key moved --range bytes=1000-2000 range
    tail -c +1001 tree/big | head -c 1001 >wanted
    same range wanted
    aws s3api put-object --bucket "$bucket" --key one --body tree/changes --metadata a=b
    test "$(aws s3api head-object --bucket "$bucket" --key one --query Metadata.a --output text)" = b
    curl -sf "$(aws s3 presign "s3://$bucket/one")" -o one
    same one tree/changes
    test "$(aws s3 ls --recursive "s3://$bucket" | wc -l)" = 5
    aws s3 ls "s3://$bucket/" | grep "PRE tree/"
    fails aws s3 rb "s3://$bucket"
    grep BucketNotEmpty refused.txt
    aws s3 rb --force "s3://$bucket"
    fails aws s3api head-bucket --bucket "$bucket"
}

s3cmd_tour() {
    s3cmd mb "s3://$bucket"
    s3cmd sync tree/ "s3://$bucket/tree/"
    echo new, and longer >tree/changes
    s3cmd sync tree/ "s3://$bucket/tree/"
    s3cmd sync "s3://$bucket/tree/" back/
    diff -r tree back
    s3cmd cp "s3://$bucket/tree/big" "s3://$bucket/copied"
    s3cmd mv "s3://$bucket/copied" "s3://$bucket/moved"
    s3cmd modify --add-header=x-amz-meta-a:b "s3://$bucket/moved"
    s3cmd info "s3://$bucket/moved" | grep "x-amz-meta-a: b"
    s3cmd info "s3://$bucket"
    curl -sf "$(s3cmd signurl "s3://$bucket/tree/changes" +60)" -o one
    same one tree/changes
    s3cmd du "s3://$bucket" | grep "4 objects"
    s3cmd del -r --force "s3://$bucket"
    s3cmd rb "s3://$bucket"
}

rclone_remote() {
    export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_B_TYPE=s3 RCLONE_CONFIG_B_PROVIDER=Other
    export RCLONE_CONFIG_B_ENV_AUTH=true RCLONE_CONFIG_B_REGION=us-east-1
    export RCLONE_CONFIG_B_ENDPOINT="$AWS_ENDPOINT_URL"
}

rclone_tour() {
    rclone_remote
    rclone mkdir "b:$bucket"
    rclone sync tree "b:$bucket/tree"
    rclone check tree "b:$bucket/tree"
    echo new, and longer >tree/changes
    rm "tree/sub/a file+ü"
    echo more >tree/sub/more
    fails rclone check tree "b:$bucket/tree"
    rclone sync tree "b:$bucket/tree"
    rclone check --download tree "b:$bucket/tree"
    rclone copy "b:$bucket/tree" back
    diff -r tree back
    rclone rcat "b:$bucket/streamed" <tree/big
    rclone moveto "b:$bucket/streamed" "b:$bucket/moved"
    rclone cat "b:$bucket/moved" >moved
    same moved tree/big
    rclone purge "b:$bucket"
}

# A bucket as a folder, by a program that is given and where it mounts: `at`.
mounted_tour() {
    mkdir -p at
    "$@" &
    pid=$!
    for _ in $(seq 200); do
        mountpoint -q at && break
        sleep 0.1
    done
    mountpoint at
    mkdir at/dir
    cp tree/big at/dir/big
    cmp tree/big at/dir/big
    mv at/dir/big at/dir/moved
    echo more >>at/dir/moved
    cmp -n 30000000 tree/big at/dir/moved
    test "$(tail -c 5 at/dir/moved)" = more
    test "$(ls at/dir)" = moved
    rm at/dir/moved
    rmdir at/dir
    test -z "$(ls at)"
    umount at
    wait $pid
}

mounts_tour() {
    "$bin/aws" s3 mb "s3://$bucket"
    export AWSACCESSKEYID="$AWS_ACCESS_KEY_ID" AWSSECRETACCESSKEY="$AWS_SECRET_ACCESS_KEY"
    mounted_tour s3fs "$bucket" at -f -o "url=$AWS_ENDPOINT_URL" -o use_path_request_style \
        -o endpoint=us-east-1 -o sigv4
    rclone_remote
    mounted_tour rclone mount "b:$bucket" at --vfs-cache-mode full --vfs-write-back 0 --cache-dir cache
    "$bin/aws" s3 rb "s3://$bucket" --force
}

case $tool in
v1)
    aws() { "$bin/aws" "$@"; }
    aws_tour
    ;;
v2)
    # It is older than the variable.
    aws() { /usr/bin/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }
    aws_tour
    ;;
s3cmd | s3cmd-v2)
    case $tool in s3cmd) version= ;; *) version=--signature-v2 ;; esac
    s3cmd() {
        "$bin/s3cmd" --config=/dev/null --access_key="$AWS_ACCESS_KEY_ID" \
            --secret_key="$AWS_SECRET_ACCESS_KEY" --host="$host" --host-bucket="$host" --no-ssl \
            --region=us-east-1 --no-progress $version "$@"
    }
    s3cmd_tour
    ;;
rclone) rclone_tour ;;
mounts) mounts_tour ;;
esac
echo "$tool: done"
