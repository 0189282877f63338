# Sourced by ./test: the real AWS clients, pinned, in a folder of the clone.

AWSCLI_V1=1.46.3
BOTO3=1.44.5

# PyPI's AWS CLI v1 and boto3 in .venv; Debian's AWS CLI v2 as a package where apt has it.
ensure_clients() {
    stamp=".venv/boira-$AWSCLI_V1-$BOTO3"
    if [ ! -e "$stamp" ]; then
        rm -rf .venv
        echo "installing the AWS CLI $AWSCLI_V1 and boto3 $BOTO3 into .venv"
        python3 -m venv .venv
        .venv/bin/pip install --quiet --disable-pip-version-check "awscli==$AWSCLI_V1" "boto3==$BOTO3"
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
}
