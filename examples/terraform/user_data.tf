variable "release" {
  default = "https://downloads.example.org/push-me-pull-you/0.2.0"
}

variable "installer_sha256" {
  type = string
}

variable "signers" {
  default = "releases ssh-ed25519 AAAA…"
}

variable "repository" {
  default = "https://git.example.org/ops.git"
}

variable "part" {
  default = "web"
}

locals {
  user_data = <<-END
    #!/bin/sh
    set -eu
    cd "$(mktemp -d)"
    curl -fsSL --retry 10 --retry-all-errors -o install.sh ${var.release}/install.sh
    echo "${var.installer_sha256}  install.sh" | sha256sum -c -
    echo '${var.signers}' > signers
    sh install.sh --release ${var.release} --signers signers
    exec /usr/local/bin/agent init ${var.repository} --part ${var.part}
  END
}

resource "aws_launch_template" "web" {
  name_prefix   = "web-"
  image_id      = "ami-00000000000000000" # a Debian 12
  instance_type = "t3.micro"
  user_data     = base64encode(local.user_data)
}
