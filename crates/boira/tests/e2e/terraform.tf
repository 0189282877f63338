# What Terraform's unmodified AWS provider does with a cloud: three states of the same machines.
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "endpoint" {}
variable "public_key" {}
variable "type" {}
variable "greeting" {}
variable "protected" { type = bool }
variable "state" {}

provider "aws" {
  region = "us-east-1"
  endpoints {
    ec2 = var.endpoint
    sts = var.endpoint
  }
}

data "aws_caller_identity" "current" {}

data "aws_availability_zones" "all" {
  state = "available"
}

data "aws_vpc" "default" {
  default = true
}

data "aws_subnets" "default" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.default.id]
  }
}

data "aws_ami" "tiny" {
  owners      = ["amazon"]
  most_recent = true
  filter {
    name   = "name"
    values = ["tiny*"]
  }
}

resource "aws_key_pair" "terraform" {
  key_name   = "terraform"
  public_key = var.public_key
}

resource "aws_security_group" "web" {
  name        = "web"
  description = "from anywhere"
  ingress {
    description = "ssh"
    from_port   = 22
    to_port     = 22
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_security_group" "database" {
  name_prefix = "database-"
  vpc_id      = data.aws_vpc.default.id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  referenced_security_group_id = aws_security_group.web.id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  tags                         = { from = "web" }
}

resource "aws_instance" "web" {
  ami                     = data.aws_ami.tiny.id
  instance_type           = var.type
  key_name                = aws_key_pair.terraform.key_name
  vpc_security_group_ids  = [aws_security_group.web.id]
  user_data               = "#!/bin/sh\necho ${var.greeting}\n"
  disable_api_termination = var.protected
  root_block_device {
    volume_size = 2
    volume_type = "gp3"
    tags        = { Name = "root" }
  }
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
    instance_metadata_tags      = "enabled"
  }
  tags = { Name = var.greeting }
}

resource "aws_instance" "burst" {
  ami                         = data.aws_ami.tiny.id
  instance_type               = "t2.nano"
  subnet_id                   = data.aws_subnets.default.ids[0]
  associate_public_ip_address = true
  credit_specification {
    cpu_credits = "unlimited"
  }
  maintenance_options {
    auto_recovery = "disabled"
  }
}

resource "aws_ec2_instance_state" "burst" {
  instance_id = aws_instance.burst.id
  state       = var.state
}

output "account" {
  value = data.aws_caller_identity.current.account_id
}

output "zones" {
  value = data.aws_availability_zones.all.names
}

output "address" {
  value = aws_instance.web.public_ip
}
