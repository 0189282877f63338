# Sourced by ./test: the real AWS and S3 clients, pinned, in a folder of the clone.

AWSCLI_V1=1.46.3
BOTO3=1.44.5
S3CMD=2.4.0
ANSIBLE_CORE=2.18.6
# Everything that is made for Ansible; its collection amazon.aws is 9.5.0.
ANSIBLE=11.6.0

# PyPI's AWS CLI v1, boto3, s3cmd and Ansible in .venv; Debian's AWS CLI v2, rclone
# and, where there is FUSE, s3fs as packages.
ensure_clients() {
    stamp=".venv/boira-$AWSCLI_V1-$BOTO3-$S3CMD-$ANSIBLE_CORE-$ANSIBLE"
    if [ ! -e "$stamp" ]; then
        rm -rf .venv
        echo "installing the AWS CLI $AWSCLI_V1, boto3 $BOTO3 and s3cmd $S3CMD into .venv"
        python3 -m venv .venv
        pip_quietly install "awscli==$AWSCLI_V1" "boto3==$BOTO3" "s3cmd==$S3CMD" "ansible-core==$ANSIBLE_CORE"
        ensure_collection
        touch "$stamp"
    fi
    if [ ! -x /usr/bin/aws ] && command -v apt-get >/dev/null 2>&1; then
        update_lists
        if apt-cache show awscli >/dev/null 2>&1; then
            echo "installing: awscli"
            apt_quietly install awscli
        else
            echo "skipped: apt has no awscli here, so the AWS CLI v2 is not tried"
        fi
    fi
    if ! command -v rclone >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
        update_lists
        echo "installing: rclone"
        apt_quietly install rclone
    fi
    if [ -e /dev/fuse ] && ! command -v s3fs >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
        update_lists
        echo "installing: s3fs"
        apt_quietly install s3fs fuse3
    fi
}

# PyPI has the collection only in a package of 500 MB, of which these are 4.
ensure_collection() {
    pip_quietly download --no-deps --dest .venv/ansible "ansible==$ANSIBLE"
    .venv/bin/python - .venv/ansible/*.whl .venv/collections <<'END'
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wanted = [name for name in wheel.namelist() if name.startswith("ansible_collections/amazon/aws/")]
wheel.extractall(sys.argv[2], wanted)
END
    rm -r .venv/ansible
}

pip_quietly() {
    .venv/bin/pip --quiet --disable-pip-version-check "$@"
}
